package outboxtest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Connections is another pool for the database of pool, with n connections that are
// open: for tests of what many do at the same time. [Database] has ten.
func Connections(tb testing.TB, pool *pgxpool.Pool, n int) *pgxpool.Pool {
	tb.Helper()
	config := pool.Config()
	config.MaxConns = int32(n) //nolint:gosec // tests do not want billions
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	wide, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		tb.Fatalf("outboxtest: %v", err)
	}
	atEnd(tb, func() error { return closePool(wide) })
	open := make([]*pgxpool.Conn, n)
	for i := range open {
		if open[i], err = wide.Acquire(ctx); err != nil {
			tb.Fatalf("outboxtest: connection %d of %d: %v", i+1, n, err)
		}
	}
	for _, conn := range open {
		conn.Release()
	}
	return wide
}

// AtOnce calls do n times, and all calls meet in the database: behind lock, a statement
// whose locks they need, which is rolled back when all of them wait. It returns when
// all are done. Each call needs a connection of its own: see [Connections].
func AtOnce(tb testing.TB, pool *pgxpool.Pool, lock string, n int, do func(i int)) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tx, err := pool.Begin(ctx)
	if err != nil {
		tb.Fatalf("outboxtest: %v", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if _, err := tx.Exec(ctx, lock); err != nil {
		tb.Fatalf("outboxtest: %v", err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	for i := range n {
		all.Go(func() { do(i) })
	}
	waiting := 0
	for deadline := time.Now().Add(meeting); waiting < n; <-time.After(5 * time.Millisecond) {
		err := pool.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
		if err != nil || time.Now().After(deadline) {
			tb.Errorf("outboxtest: of %d calls %d have met, %v", n, waiting, err)
			break
		}
	}
	if err := tx.Rollback(ctx); err != nil {
		tb.Errorf("outboxtest: %v", err)
	}
}

// meeting is how long calls may take to meet.
const meeting = 8 * time.Second
