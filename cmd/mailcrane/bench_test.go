package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/migrations"
	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/localpg"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// BenchmarkCommitToInbox commits 50 invitations a second to a PostgreSQL that
// flushes to disk, and reports how long each took from the commit to the inbox:
//
//	go test -run '^$' -bench CommitToInbox -benchtime 1000x ./cmd/mailcrane
func BenchmarkCommitToInbox(b *testing.B) {
	for name, more := range map[string]string{"listening": "MAILCRANE_POLL_ONLY=false", "polling": "MAILCRANE_POLL_ONLY=true"} {
		b.Run(name, func(b *testing.B) { benchmarkLatency(b, more) })
	}
}

func benchmarkLatency(b *testing.B, more string) {
	ctx := b.Context()
	server, err := localpg.Start(ctx, localpg.Config{Ephemeral: true})
	if err != nil {
		b.Fatal(err)
	}
	defer server.Stop(context.Background()) //nolint:errcheck // the benchmark is over
	if err := migrations.Up(ctx, server.URL()); err != nil {
		b.Fatal(err)
	}
	pool, err := pgxpool.New(ctx, server.URL())
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	box := mailbox.Start(b, mailbox.Config{Capacity: b.N + 100})
	daemonCtx, stop := context.WithCancel(ctx)
	log := &buffer{}
	done := make(chan error, 1)
	go func() {
		done <- run(daemonCtx, []string{"serve", "--no-api"}, settingsFor(pool, box, more, "LOG_LEVEL=info"), io.Discard, log)
	}()
	for !strings.Contains(log.String(), "mailcrane runs") {
		<-time.After(10 * time.Millisecond)
	}

	committed := make(map[string]time.Time, b.N)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for b.Loop() {
		<-ticker.C
		to := fmt.Sprintf("u%d@example.com", len(committed))
		if _, err := outbox.Invite(ctx, pool, outbox.Invitation{GroupID: "g", GroupName: "Group", Email: to}); err != nil {
			b.Fatal(err)
		}
		committed[to] = time.Now()
	}
	mails, err := box.Wait(ctx, len(committed))
	if err != nil {
		b.Fatal(err)
	}
	waits := make([]time.Duration, len(mails))
	for i, m := range mails {
		waits[i] = m.ReceivedAt.Sub(committed[m.To[0]])
	}
	slices.Sort(waits)
	for name, share := range map[string]float64{"p50-ms": 0.5, "p99-ms": 0.99, "max-ms": 1} {
		wait := waits[int(share*float64(len(waits)-1))]
		b.ReportMetric(float64(wait.Microseconds())/1000, name)
	}
	stop()
	if err := <-done; err != nil {
		b.Error(err)
	}
}
