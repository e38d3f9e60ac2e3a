//go:build unix

package torture

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox"
)

// killPostgreSQL kills it twice, and once more for a long outage.
func killPostgreSQL(ctx context.Context, r *round) error {
	kill := func(down time.Duration) func() error {
		return func() error {
			if err := r.wait(ctx, time.Second); err != nil {
				return err
			}
			return r.restartServer(ctx, down)
		}
	}
	return r.steps(ctx, kill(0), kill(0), kill(r.outage(5*time.Minute)))
}

func (s *stage) restartServer(ctx context.Context, down time.Duration) error {
	if err := s.server.Kill(); err != nil {
		return err
	}
	select {
	case <-time.After(down):
	case <-ctx.Done(): // and start all the same
	}
	return s.startServer(context.WithoutCancel(ctx))
}

// startCopy copies the database while messages are queued in it, and starts a
// daemon on the copy. It must not even call a relay.
func startCopy(ctx context.Context, r *round) (err error) {
	if err := r.copyDatabase(ctx, "mailcrane_copy"); err != nil {
		return err
	}
	defer func() {
		if _, dropErr := r.pool.Exec(ctx, `DROP DATABASE mailcrane_copy WITH (FORCE)`); err == nil {
			err = dropErr
		}
	}()
	config, err := pgx.ParseConfig(r.databaseURL)
	if err != nil {
		return err
	}
	copyURL := strings.Replace(r.databaseURL, "/"+config.Database, "/mailcrane_copy", 1)
	d, err := r.newDaemon("copy", copyURL)
	if err != nil {
		return err
	}
	defer d.close(ctx) //nolint:errcheck // it is of no interest any more
	queued := 0
	conn, err := pgx.Connect(ctx, copyURL)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // it was only read
	if err := conn.QueryRow(ctx, `SELECT count(*) FROM mailcrane.message WHERE finished_at IS NULL`).Scan(&queued); err != nil {
		return err
	}
	d.start()
	if err := until(ctx, r.patience(), "the copy runs", func(context.Context) (bool, error) { return d.pid() != 0, nil }); err != nil {
		return err
	}
	if err := d.refuses(ctx, 2*r.Lease); err != nil {
		r.breaks("%v", err)
	}
	if d.pid() == 0 || queued == 0 {
		r.breaks("the copy proves nothing: process %d, %d messages", d.pid(), queued)
	}
	for _, relay := range d.relays {
		if n := relay.Connections(); n > 0 {
			r.breaks("the copy has called a relay %d times", n)
		}
	}
	return nil
}

// copyDatabase makes a copy of the database with messages in the queue. Nobody
// may be connected meanwhile.
func (r *round) copyDatabase(ctx context.Context, name string) error {
	for _, d := range r.lanes {
		if err := d.stop(ctx); err != nil {
			return err
		}
	}
	err := until(ctx, r.patience(), "messages are queued", func(ctx context.Context) (enough bool, err error) {
		err = r.pool.QueryRow(ctx, `SELECT count(*) >= 5 FROM mailcrane.message WHERE status = 'queued'`).Scan(&enough)
		return enough, err
	})
	if err != nil {
		return err
	}
	config, err := pgx.ParseConfig(r.databaseURL)
	if err != nil {
		return err
	}
	own := pgx.Identifier{config.Database}.Sanitize()
	config.Database = "postgres"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // all has been said
	for _, statement := range []string{
		`ALTER DATABASE ` + own + ` ALLOW_CONNECTIONS false`,
		`SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'mailcrane'`,
		`CREATE DATABASE ` + name + ` TEMPLATE ` + own,
		`ALTER DATABASE ` + own + ` ALLOW_CONNECTIONS true`,
	} {
		if _, execErr := conn.Exec(ctx, statement); execErr != nil && err == nil {
			err = fmt.Errorf("copy the database: %w", execErr)
		}
	}
	for _, d := range r.lanes {
		d.start()
	}
	return err
}

// vandalise does to the queue what an operator can do by SQL or in a web page for
// River: first at rest, where an audit has to find it and a repair to undo it,
// then under load.
func vandalise(ctx context.Context, r *round) error {
	if err := outbox.Hold(ctx, r.pool, outbox.Scope{}, "torture"); err != nil {
		return err
	}
	err := until(ctx, r.patience(), "messages are queued", func(ctx context.Context) (enough bool, err error) {
		err = r.pool.QueryRow(ctx, `SELECT count(*) >= 15 FROM mailcrane.message WHERE status = 'queued'`).Scan(&enough)
		return enough, err
	})
	if err != nil {
		return err
	}
	if err := r.meddle(ctx, "true"); err != nil {
		return err
	}
	if critical, err := r.critical(ctx); err != nil || critical == 0 {
		return fmt.Errorf("jobs are missing, and the audit finds nothing (%w)", err)
	}
	if err := r.repair(ctx); err != nil {
		return err
	}
	if _, err := outbox.Release(ctx, r.pool, outbox.Scope{}); err != nil {
		return err
	}
	for range 5 {
		if err := r.meddle(ctx, "random() < 0.3"); err != nil {
			return err
		}
		if err := r.wait(ctx, 300*time.Millisecond); err != nil {
			return err
		}
	}
	if err := r.repair(ctx); err != nil {
		return err
	}
	return r.recovered(ctx)
}

// meddle deletes, cancels and retries some of the jobs.
func (r *round) meddle(ctx context.Context, some string) error {
	for _, statement := range []string{
		`DELETE FROM mailcrane.river_job WHERE kind = 'deliver' AND state IN ('available', 'scheduled') AND id % 3 = 0 AND ` + some,
		`UPDATE mailcrane.river_job SET state = 'cancelled', finalized_at = now() WHERE kind = 'deliver' AND state IN ('available', 'scheduled', 'running') AND id % 3 = 1 AND ` + some,
		`UPDATE mailcrane.river_job SET state = 'available', finalized_at = NULL, scheduled_at = now()
		 WHERE kind = 'deliver' AND id % 3 = 2 AND (state = 'running' OR state = 'completed' AND finalized_at > now() - interval '5 seconds') AND ` + some,
	} {
		if _, err := r.pool.Exec(ctx, statement); err != nil {
			return fmt.Errorf("vandalise: %w", err)
		}
	}
	return nil
}

func (r *round) critical(ctx context.Context) (n int, err error) {
	findings, err := outbox.Audit(ctx, r.pool, 0)
	for _, f := range findings {
		if f.Severity == outbox.Critical {
			n++
		}
	}
	return n, err
}

// repair puts the queue right. What workers are just about to do may make one
// more necessary.
func (r *round) repair(ctx context.Context) error {
	return until(ctx, r.patience(), "the audit is content", func(ctx context.Context) (bool, error) {
		if _, err := outbox.Repair(ctx, r.pool); err != nil {
			return false, err
		}
		n, err := r.critical(ctx)
		return n == 0, err
	})
}
