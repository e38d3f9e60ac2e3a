//go:build unix

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/migrations"
	"github.com/mailcrane/mailcrane/outbox/localpg"
)

// stage is the world of one run.
type stage struct {
	Config
	dir         string
	server      *localpg.Server // nil if the database was given
	databaseURL string
	database    string        // its name
	pool        *pgxpool.Pool // of those who look
	clean       bool          // the database held nothing, so all that is in it is ours
	postgres    int           // process of the server, 0 if it cannot be seen
	sink        *relay
	daemons     []*daemon
	started     int // daemons so far
	written     int // messages so far
	asked       int // transactions of our own while something was measured
}

// open sets the stage up: everything but the daemons.
func open(ctx context.Context, config Config, report *Report) (_ *stage, err error) {
	s := &stage{Config: config, databaseURL: config.DatabaseURL}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(context.WithoutCancel(ctx)))
		}
	}()
	if s.dir, err = os.MkdirTemp("", "mailcrane-bench-"); err != nil {
		return nil, err
	}
	if s.databaseURL == "" {
		s.server, err = localpg.Start(ctx, localpg.Config{Ephemeral: true, Settings: config.PostgreSQL})
		if err != nil {
			return nil, err
		}
		s.databaseURL = s.server.URL()
		report.InMemory = inMemory(s.server.Dir())
	}
	if err := s.prepareDatabase(ctx, report); err != nil {
		return nil, err
	}
	s.sink, err = s.startSink(ctx)
	return s, err
}

// tables are where something of ours may be.
func tables() []string {
	return []string{
		"mailcrane.message", "mailcrane.invitation", "mailcrane.attempt", "mailcrane.river_job", "mailcrane.instance", "mailcrane.installation",
	}
}

func (s *stage) prepareDatabase(ctx context.Context, report *Report) error {
	config, err := pgxpool.ParseConfig(s.databaseURL)
	if err != nil {
		return fmt.Errorf("database URL: %w", err)
	}
	config.MaxConns = 4
	config.ConnConfig.RuntimeParams["application_name"] = "mailcrane bench"
	if s.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	s.database = config.ConnConfig.Database
	if err := s.checkEmpty(ctx); err != nil {
		return err
	}
	if err := migrations.Up(ctx, s.databaseURL); err != nil {
		return err
	}
	s.clean = true
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	s.postgres = postmaster(int(conn.Conn().PgConn().PID()), s.database)
	conn.Release()
	return s.describe(ctx, report)
}

// checkEmpty refuses a database with anything of ours in it but the schema, in
// whatever version.
func (s *stage) checkEmpty(ctx context.Context) error {
	for _, table := range tables() {
		var exists, used bool
		err := s.pool.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, table).Scan(&exists)
		if err == nil && exists {
			err = s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+table+`)`).Scan(&used)
		}
		if err != nil {
			return fmt.Errorf("database: %w", err)
		}
		if used {
			return fmt.Errorf("database %s: there is something in %s: bench wants a database that holds nothing but the schema, "+
				"because it mails what it finds, and empties it at the end", s.database, table)
		}
	}
	return nil
}

// describe reads what the figures depend on.
func (s *stage) describe(ctx context.Context, report *Report) error {
	rows, err := s.pool.Query(ctx, `
		SELECT name, current_setting(name)
		FROM pg_settings
		WHERE name IN ('server_version', 'fsync', 'synchronous_commit', 'full_page_writes', 'wal_sync_method', 'shared_buffers', 'max_wal_size',
		               'autovacuum', 'autovacuum_naptime', 'commit_delay')
		ORDER BY name`)
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	defer rows.Close()
	report.Server = nil
	for rows.Next() {
		var one Setting
		if err := rows.Scan(&one.Name, &one.Value); err != nil {
			return fmt.Errorf("database: %w", err)
		}
		if one.Name == "server_version" {
			report.PostgreSQL = one.Value
			continue
		}
		report.Server = append(report.Server, one)
	}
	return rows.Err()
}

// pids are the processes to account for.
func (s *stage) pids() pids {
	p := pids{postgres: s.postgres, sink: s.sink.process.Pid()}
	for _, d := range s.daemons {
		p.daemons = append(p.daemons, d.process.Pid())
	}
	return p
}

// checkpoint begins a measurement with a clean slate of the disk.
func (s *stage) checkpoint(ctx context.Context) error {
	_, err := s.pool.Exec(ctx, `CHECKPOINT`)
	if err != nil && s.server == nil {
		s.say("no checkpoint before the start: %v", err)
		return ctx.Err()
	}
	return err
}

// close takes the stage down. Nothing of it stays.
func (s *stage) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := s.stopDaemons(ctx)
	if s.sink != nil {
		err = errors.Join(err, s.sink.stop(ctx))
	}
	if s.pool != nil {
		if s.clean && s.server == nil {
			_, truncateErr := s.pool.Exec(ctx, `TRUNCATE `+strings.Join(tables(), ", "))
			err = errors.Join(err, truncateErr)
		}
		s.pool.Close()
	}
	if s.server != nil {
		err = errors.Join(err, s.server.Stop(ctx))
	}
	if s.dir != "" {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

// until asks again and again whether something is so, for as long as patience
// lasts.
func until(ctx context.Context, patience, interval time.Duration, what string, is func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		ok, err := is(ctx)
		if ok || err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return fmt.Errorf("waited %s in vain until %s", patience, what)
		}
	}
}
