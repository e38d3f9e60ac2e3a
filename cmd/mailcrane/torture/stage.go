//go:build unix

package torture

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

// stage is the world in which the cases are played.
type stage struct {
	Config
	dir         string
	server      *localpg.Server // nil if the database was given
	databaseURL string
	version     string
	pool        *pgxpool.Pool // of the writers, and of those who look
	sink        *sink
	lanes       []*daemon // that send
	web         *daemon   // that only serves HTTP
	rounds      int
}

// open sets the stage up.
func open(ctx context.Context, config Config, dir string) (_ *stage, err error) {
	s := &stage{Config: config, dir: dir, databaseURL: config.DatabaseURL}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(context.WithoutCancel(ctx)))
		}
	}()
	if s.databaseURL == "" {
		if err := s.startServer(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.prepareDatabase(ctx); err != nil {
		return nil, err
	}
	if err := s.writeTemplates(); err != nil {
		return nil, err
	}
	if s.sink, err = newSink(filepath.Join(dir, "journal.jsonl")); err != nil {
		return nil, err
	}
	for _, name := range []string{"first", "second"} {
		lane, err := s.newDaemon(name, s.databaseURL)
		if err != nil {
			return nil, err
		}
		s.lanes = append(s.lanes, lane)
	}
	if s.web, err = s.newDaemon("web", s.databaseURL, "--no-relay"); err != nil {
		return nil, err
	}
	s.web.start()
	for _, lane := range s.lanes {
		lane.start()
	}
	return s, s.allReady(ctx)
}

func (s *stage) daemons() []*daemon {
	daemons := s.lanes
	if s.web != nil {
		daemons = append(daemons[:len(daemons):len(daemons)], s.web)
	}
	return daemons
}

func (s *stage) allReady(ctx context.Context) error {
	for _, d := range s.daemons() {
		if err := d.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// startServer starts our own PostgreSQL, or starts it again.
func (s *stage) startServer(ctx context.Context) (err error) {
	s.server, err = localpg.Start(ctx, localpg.Config{
		Dir: filepath.Join(s.dir, diskName, "postgresql"),
		// A commit that need not wait for the disk is written late, so that a crash
		// takes back as much as it may.
		Settings: map[string]string{"wal_writer_delay": "10s", "wal_writer_flush_after": "0"},
	})
	if err == nil {
		s.databaseURL = s.server.URL()
	}
	return err
}

// prepareDatabase makes the schema, in an empty database.
func (s *stage) prepareDatabase(ctx context.Context) error {
	config, err := pgxpool.ParseConfig(s.databaseURL)
	if err != nil {
		return fmt.Errorf("database URL: %w", err)
	}
	config.MaxConns = 16
	config.ConnConfig.RuntimeParams["application_name"] = "torture"
	if s.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	var used bool
	err = s.pool.QueryRow(ctx, `SELECT current_setting('server_version'), to_regclass('mailcrane.message') IS NOT NULL`).Scan(&s.version, &used)
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	if used {
		return errors.New("database: it has messages, or had some: torture wants an empty one, made for it")
	}
	if err := migrations.Up(ctx, s.databaseURL); err != nil {
		return err
	}
	_, err = s.pool.Exec(ctx, `INSERT INTO mailcrane.policy (tenant, on_unknown) VALUES ($1, 'hold')`, holdTenant)
	return err
}

func (s *stage) templates() string { return filepath.Join(s.dir, "templates") }

// A big mail is more than a connection on this machine takes without anybody
// reading from it: 8 MiB. Its template is not, as each daemon that starts reads it.
const (
	bigPages = 1 << 10
	bigPage  = 8 << 10
)

// writeTemplates adds a mail that is too big to be sent at once, and one that
// cannot be rendered without a value.
func (s *stage) writeTemplates() error {
	folder := filepath.Join(s.templates(), "en")
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return err
	}
	line := strings.Repeat("A line of a mail that is too big to be sent in one go. ", 2)[:70] + "\n"
	for name, text := range map[string]string{
		"big.subject": "A big mail", "big.txt": "{{range .data.pages}}" + strings.Repeat(line, bigPage/len(line)) + "{{end}}", "big.html": "<p>Big</p>",
		"broken.subject": "{{.data.missing}}", "broken.txt": "{{.data.missing}}", "broken.html": "{{.data.missing}}",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// close takes the stage down. What stays is in its folder.
func (s *stage) close(ctx context.Context) error {
	var err error
	for _, d := range s.daemons() {
		err = errors.Join(err, d.close(ctx))
	}
	if s.sink != nil {
		err = errors.Join(err, s.sink.journal.Close())
	}
	if s.pool != nil {
		s.pool.Close()
	}
	if s.server != nil {
		err = errors.Join(err, s.server.Stop(ctx))
	}
	return err
}

// until asks again and again whether something is so, for as long as patience
// lasts.
func until(ctx context.Context, patience time.Duration, what string, is func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		ok, err := is(ctx)
		if ok || err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("waited %s in vain until %s", patience, what)
		}
	}
}
