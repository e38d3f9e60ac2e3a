package outboxtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox/localpg/pgproxy"
)

// Database gives a test a migrated database of its own, which is dropped when
// the test ends. It costs some 50 ms.
func Database(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	return connect(tb, create(tb, server().template))
}

// EmptyDatabase is [Database] without the schema.
func EmptyDatabase(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	return connect(tb, create(tb, empty))
}

// DatabaseURL is [Database] for a program that the test runs: the URL of a
// migrated database of its own. (That of a [Database] is in its Config.)
func DatabaseURL(tb testing.TB) string {
	tb.Helper()
	return create(tb, server().template).url
}

// Begin begins a transaction that is rolled back when the test ends, if it is not
// over by then.
func Begin(tb testing.TB, pool *pgxpool.Pool) pgx.Tx {
	tb.Helper()
	tx, err := pool.Begin(context.Background())
	if err != nil {
		tb.Fatalf("outboxtest: %v", err)
	}
	atEnd(tb, func() error {
		if err := tx.Rollback(context.Background()); !errors.Is(err, pgx.ErrTxClosed) {
			return err
		}
		return nil
	})
	return tx
}

// Proxy stands before the database of the given URL until the test ends, and lets
// go wrong what the test wants.
func Proxy(tb testing.TB, databaseURL string) *pgproxy.Proxy {
	tb.Helper()
	proxy, err := pgproxy.Listen(databaseURL)
	if err != nil {
		tb.Fatalf("outboxtest: %v", err)
	}
	atEnd(tb, proxy.Close)
	return proxy
}

// Open is [Database] for code that has no test at hand, such as an Example. The
// caller drops the database.
func Open(ctx context.Context) (pool *pgxpool.Pool, drop func() error, err error) {
	template, err := server().template()
	if err != nil {
		return nil, nil, err
	}
	d, err := server().create(ctx, template)
	if err != nil {
		return nil, nil, err
	}
	pool, err = d.connect(ctx)
	if err != nil {
		return nil, nil, errors.Join(err, d.drop())
	}
	return pool, func() error { return errors.Join(closePool(pool), d.drop()) }, nil
}

func create(tb testing.TB, template func() (string, error)) *database {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	name, err := template()
	if err != nil {
		tb.Fatalf("outboxtest: %v", err)
	}
	d, err := server().create(ctx, name)
	if err != nil {
		tb.Fatalf("outboxtest: %v", err)
	}
	atEnd(tb, d.drop)
	return d
}

func connect(tb testing.TB, d *database) *pgxpool.Pool {
	tb.Helper()
	pool, err := d.connect(context.Background())
	if err != nil {
		tb.Fatalf("outboxtest: %v", err)
	}
	atEnd(tb, func() error { return closePool(pool) }) // before the database is dropped
	return pool
}

// atEnd calls end when the test is over.
func atEnd(tb testing.TB, end func() error) {
	tb.Helper()
	tb.Cleanup(func() {
		if err := end(); err != nil {
			tb.Errorf("outboxtest: %v", err)
		}
	})
}

// patience is for a machine that is busy with many tests.
const patience = 2 * time.Minute

// database is one of a test's own.
type database struct {
	server    *testServer
	name, url string
}

func (d *database) connect(ctx context.Context) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(d.url)
	if err != nil {
		return nil, fmt.Errorf("read TEST_DATABASE_URL: %w", err)
	}
	config.MaxConns = 10
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", d.name, err)
	}
	return pool, nil
}

// drop drops the database, whoever is still connected.
func (d *database) drop() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return d.server.exec(ctx, "DROP DATABASE "+d.name+" WITH (FORCE)")
}

// closePool does not wait for ever, as closing does, for a connection that the
// test has not given back.
func closePool(pool *pgxpool.Pool) error {
	closed := make(chan struct{})
	go func() {
		pool.Close()
		close(closed)
	}()
	select {
	case <-closed:
		return nil
	case <-time.After(10 * time.Second):
		return errors.New("a connection of the pool is still in use at the end of the test")
	}
}
