package outbox_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// completions counts what River writes about the end of a job.
type completions struct{ n atomic.Int32 }

func (c *completions) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, "JobSetStateIfRunningMany") {
		c.n.Add(1)
	}
	return ctx
}

func (*completions) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// traced gives a database whose connections are watched.
func traced(t *testing.T) (*pgxpool.Pool, *completions) {
	t.Helper()
	seen := &completions{}
	config := outboxtest.Database(t).Config()
	config.ConnConfig.Tracer = seen
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, seen
}

func stop(t *testing.T, relay *outbox.Relay) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := relay.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestRelay_leavesRiverNothingToWriteAboutAJob(t *testing.T) {
	t.Parallel()
	pool, seen := traced(t)
	var once atomic.Bool
	h := &hop{answers: map[string]sendFunc{
		"none@example.com": func(context.Context, *outbox.Message, outbox.Handover) (outbox.Reply, error) {
			return outbox.Reply{Code: 550}, &outbox.SendError{Outcome: outbox.Rejected, Err: errors.New("no such user")}
		},
	}}
	h.answers["later@example.com"] = func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		if once.CompareAndSwap(false, true) {
			return outbox.Reply{Code: 450}, &outbox.SendError{Outcome: outbox.Deferred, Err: errors.New("busy")}
		}
		if err := handover(ctx, relayName); err != nil {
			return outbox.Reply{}, err
		}
		return h.accept(m), nil
	}
	exec(t, pool, `INSERT INTO mailcrane.hold (tenant, template, reason) VALUES ('held', '*', 'test')`)
	held, err := outbox.Invite(t.Context(), pool, outbox.Invitation{Tenant: "held", GroupID: "g", Email: "held@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	ends := map[string]outbox.Status{
		invite(t, pool, "ada@example.com"):   outbox.StatusSent,
		invite(t, pool, "later@example.com"): outbox.StatusSent,
		invite(t, pool, "none@example.com"):  outbox.StatusFailed,
		held.MessageID:                       outbox.StatusHeld,
	}
	relay := startRelay(t, pool, h)
	for id, status := range ends {
		eventually(t, pool, id, hasStatus(status))
	}
	eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.river_job WHERE state <> 'completed'`)
	stop(t, relay) // which waits for what River still had to write
	if n := seen.n.Load(); n != 0 {
		t.Errorf("River has written %d times", n)
	}
}

func TestRelay_leavesToRiverTheJobOfAMessageThatIsSentAlready(t *testing.T) {
	t.Parallel()
	pool, seen := traced(t)
	id := invite(t, pool, "ada@example.com")
	relay := startRelay(t, pool, &hop{})
	eventually(t, pool, id, hasStatus(outbox.StatusSent))
	exec(t, pool, `UPDATE mailcrane.river_job SET state = 'available', finalized_at = NULL`) // woken once too often
	eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.river_job WHERE state <> 'completed'`)
	stop(t, relay)
	if seen.n.Load() == 0 {
		t.Error("River has not written: who completed the job?")
	}
}
