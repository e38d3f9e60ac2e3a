package outbox_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/migrations"
	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/localpg"
)

// What it costs to write, each call committed, on a server that flushes every
// commit to the disk:
//
//	go test -run '^$' -bench 'Invite|Enqueue|Report|Bare' ./outbox

func BenchmarkInvite(b *testing.B) {
	pool := durable(b)
	var n atomic.Int64
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			atOnce(b, writers, func(ctx context.Context) error {
				_, err := outbox.Invite(ctx, pool, benchInvitation(n.Add(1)))
				return err
			})
		})
	}
}

func BenchmarkInviteMany(b *testing.B) {
	pool := durable(b)
	const items = 1000
	invitations := make([]outbox.Invitation, items)
	n := int64(0)
	for b.Loop() {
		for i := range invitations {
			n++
			invitations[i] = benchInvitation(n)
		}
		if _, err := outbox.InviteMany(b.Context(), pool, invitations); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*items/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkEnqueue(b *testing.B) {
	pool := durable(b)
	var n atomic.Int64
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			atOnce(b, writers, func(ctx context.Context) error {
				_, err := outbox.Enqueue(ctx, pool, outbox.Draft{
					Recipient: fmt.Sprintf("person%d@example.com", n.Add(1)), Template: "verify", Data: map[string]any{"code": "123456"},
				})
				return err
			})
		})
	}
}

// BenchmarkReportBounces reports mails that were sent.
func BenchmarkReportBounces(b *testing.B) {
	pool := durable(b)
	const items = 1000
	exec(b, pool, `INSERT INTO mailcrane.message (recipient, template, status, finished_at)
		SELECT 'person' || i || '@example.com', 'verify', 'sent', now() FROM generate_series(1, $1) AS i`, items)
	bounces := make([]outbox.Bounce, items)
	n := 0
	for b.Loop() {
		for i := range bounces {
			n++
			bounces[i] = outbox.Bounce{Kind: outbox.HardBounce, Address: fmt.Sprintf("person%d@example.com", i+1), Source: "postmark", SourceID: fmt.Sprint(n)}
		}
		if _, err := outbox.ReportBounces(b.Context(), pool, "", bounces...); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*items/b.Elapsed().Seconds(), "bounces/s")
}

// BenchmarkBare is the least that an outbox can do: a row of the application's
// and one of the outbox, without a rule or a check.
func BenchmarkBare(b *testing.B) {
	pool := durable(b)
	exec(b, pool, `
		CREATE TABLE a (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), group_id text, email text, group_name text, inviter_name text);
		CREATE TABLE b (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), a uuid, template text, data jsonb)`)
	var n atomic.Int64
	b.Run("64", func(b *testing.B) {
		atOnce(b, 64, func(ctx context.Context) error {
			inv := benchInvitation(n.Add(1))
			_, err := pool.Exec(ctx, `
				WITH i AS (INSERT INTO a (group_id, email, group_name, inviter_name) VALUES ($1, $2, $3, $4) RETURNING id)
				INSERT INTO b (a, template, data) SELECT id, 'invitation', '{}' FROM i`,
				inv.GroupID, inv.Email, inv.GroupName, inv.InviterName)
			return err
		})
	})
}

func benchInvitation(n int64) outbox.Invitation {
	return outbox.Invitation{
		GroupID: fmt.Sprint("group", n%1000), Email: fmt.Sprintf("person%d@example.com", n),
		GroupName: "Analytical Engine Club", InviterName: "Charles Babbage",
	}
}

// atOnce calls write from so many goroutines that many are under way all the time.
func atOnce(b *testing.B, writers int, write func(context.Context) error) {
	b.Helper()
	left := atomic.Int64{}
	left.Store(int64(b.N))
	b.ResetTimer()
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				if err := write(b.Context()); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

// durable is a migrated database on a server of its own, with the settings that
// PostgreSQL comes with.
func durable(b *testing.B) *pgxpool.Pool {
	b.Helper()
	server, err := localpg.Start(b.Context(), localpg.Config{Ephemeral: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := server.Stop(context.Background()); err != nil {
			b.Error(err)
		}
	})
	if err := migrations.Up(b.Context(), server.URL()); err != nil {
		b.Fatal(err)
	}
	config, err := pgxpool.ParseConfig(server.URL())
	if err != nil {
		b.Fatal(err)
	}
	config.MaxConns = 64
	pool, err := pgxpool.NewWithConfig(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	return pool
}
