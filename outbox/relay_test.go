package outbox_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

func TestRelay_sendsWhatWasCommittedAndNothingThatWasRolledBack(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	h := &hop{}
	startRelay(t, pool, h)
	ctx := t.Context()

	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	write := func(tx pgx.Tx, email string) string {
		t.Helper()
		receipt, err := outbox.Invite(ctx, tx, outbox.Invitation{GroupID: "g", Email: email})
		if err != nil {
			t.Fatal(err)
		}
		return receipt.MessageID
	}
	committed := write(tx, "committed@example.com")
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	write(savepoint, "savepoint-rolled-back@example.com")
	if err := savepoint.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	gone, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	write(gone, "rolled-back@example.com")
	if err := gone.Rollback(ctx); err != nil {
		t.Fatal(err)
	}

	eventually(t, pool, committed, hasStatus(outbox.StatusSent))
	// Whatever was written before is fetched before: once this one is through,
	// the others had their chance.
	eventually(t, pool, invite(t, pool, "afterwards@example.com"), hasStatus(outbox.StatusSent))
	want := map[string]int{"committed@example.com": 1, "afterwards@example.com": 1}
	if got := h.copies(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("accepted %v, want %v", got, want)
	}
	if jobs := value[int](t, pool, `SELECT count(*) FROM mailcrane.river_job`); jobs != 2 {
		t.Errorf("%d jobs, want 2", jobs)
	}
}

func TestRelay_recordsRelayReplyAndTimes(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	startRelay(t, pool, &hop{}, func(c *outbox.RelayConfig) { c.Name = "host:1" })
	m := eventually(t, pool, invite(t, pool, "ada@example.com"), hasStatus(outbox.StatusSent))
	if len(m.Attempts) != 1 || m.FinishedAt == nil {
		t.Fatalf("got %+v", m)
	}
	a := m.Attempts[0]
	if a.Number != 1 || a.Outcome != outbox.Accepted || a.Relay != relayName || a.Code != 250 ||
		a.Enhanced != "2.0.0" || a.Reply != "taken" || a.Instance != "host:1" || a.FinishedAt == nil {
		t.Errorf("attempt %+v", a)
	}
	if state := value[string](t, pool, `SELECT state::text FROM mailcrane.river_job`); state != "completed" {
		t.Errorf("the job is %s", state)
	}
}

func TestRelay_twoDaemonsSendEachMessageOnce(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	h := &hop{}
	startRelay(t, pool, h)
	startRelay(t, pool, h)
	const messages = 2000
	for batch := range messages / 500 {
		invitations := make([]outbox.Invitation, 500)
		for i := range invitations {
			invitations[i] = outbox.Invitation{GroupID: "g", Email: fmt.Sprintf("u%d-%d@example.com", batch, i)}
		}
		if _, err := outbox.InviteMany(t.Context(), pool, invitations); err != nil {
			t.Fatal(err)
		}
	}
	eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.message WHERE status <> 'sent'`)
	copies := h.copies()
	if len(copies) != messages {
		t.Errorf("%d recipients, want %d", len(copies), messages)
	}
	for recipient, n := range copies {
		if n != 1 {
			t.Errorf("%s got %d copies", recipient, n)
		}
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.attempt WHERE outcome = 'accepted'`); n != messages {
		t.Errorf("%d accepted attempts", n)
	}
}

func TestRelay_openSettlesWhatNeedsNoNetwork(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change string
		status outbox.Status
		reason string
	}{
		"suppressed meanwhile": {
			`INSERT INTO mailcrane.suppression (address, reason) VALUES ('ada@example.com', 'complained')`,
			outbox.StatusSuppressed, "complained"},
		"revoked": {
			`UPDATE mailcrane.invitation SET status = 'revoked', finished_at = now()`,
			outbox.StatusCancelled, "revoked"},
		"accepted by other means": {
			`UPDATE mailcrane.invitation SET status = 'accepted', finished_at = now()`,
			outbox.StatusCancelled, "accepted"},
		"expired": {
			`UPDATE mailcrane.message SET expires_at = now() - interval '1 second'`,
			outbox.StatusFailed, "expired"},
		"too old": {
			`WITH old AS (UPDATE mailcrane.message SET created_at = now() - interval '121 hours' RETURNING id, job_id)
			INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, outcome, finished_at)
			SELECT id, 1, job_id, mailcrane.uuid_v7(), 'deferred', now() FROM old`,
			outbox.StatusFailed, "given up"},
		"too old by a policy of its own": {
			`WITH policy AS (INSERT INTO mailcrane.policy (template, give_up_after) VALUES ('invitation', '10 min')),
			old AS (UPDATE mailcrane.message SET created_at = now() - interval '11 min' RETURNING id, job_id)
			INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, outcome, finished_at)
			SELECT id, 1, job_id, mailcrane.uuid_v7(), 'deferred', now() FROM old`,
			outbox.StatusFailed, "given up after 00:10:00"},
		"too old, and no relay was there": {
			`UPDATE mailcrane.message SET created_at = now() - interval '121 hours'`,
			outbox.StatusHeld, "no relay"},
		"held by a hold of its template": {
			`SELECT mailcrane.hold(template => 'invitation', reason => 'wrong text')`,
			outbox.StatusHeld, "wrong text"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := outboxtest.Database(t)
			id := invite(t, pool, "ada@example.com")
			exec(t, pool, c.change)
			h := &hop{}
			startRelay(t, pool, h)
			m := eventually(t, pool, id, hasStatus(c.status))
			if !strings.Contains(m.Reason, c.reason) || len(m.Attempts) > 1 || len(h.all()) != 0 {
				t.Errorf("message %+v, accepted %v", m, h.copies())
			}
			if state := value[string](t, pool, `SELECT state::text FROM mailcrane.river_job`); state != "completed" {
				t.Errorf("the job is %s", state)
			}
		})
	}
}

func TestRelay_sendAfterIsRespected(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	h := &hop{}
	startRelay(t, pool, h)
	later := time.Now().Add(2 * time.Second)
	receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: "ada@example.com", SendAfter: later})
	if err != nil {
		t.Fatal(err)
	}
	m := eventually(t, pool, receipt.MessageID, hasStatus(outbox.StatusSent))
	if m.Attempts[0].BeganAt.Before(later) {
		t.Errorf("began at %s, not to be sent before %s", m.Attempts[0].BeganAt, later)
	}
}

func TestRelay_noTransactionIsOpenWhileTheSenderTalks(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	var before, after atomic.Int64 // of all attempts: on a busy machine the heartbeat may be too old for the first
	count := func() int64 {
		return value[int64](t, pool, `
			SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND state <> 'active'`)
	}
	h := &hop{}
	startRelay(t, pool, sendFunc(func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		before.Add(count())
		if err := handover(ctx, relayName); err != nil {
			return outbox.Reply{}, err
		}
		after.Add(count())
		return h.accept(m), nil
	}))
	eventually(t, pool, invite(t, pool, "ada@example.com"), hasStatus(outbox.StatusSent))
	if before.Load() != 0 || after.Load() != 0 {
		t.Errorf("open transactions: %d before the handover, %d after it", before.Load(), after.Load())
	}
}

func TestRelay_invitationWithoutAnyLinkWaitsAndSaysWhy(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	startRelay(t, pool, &hop{}, func(c *outbox.RelayConfig) { c.AcceptURL, c.Secret = "", nil })
	m := eventually(t, pool, invite(t, pool, "ada@example.com"), func(m outbox.MessageRecord) bool { return len(m.Attempts) > 0 })
	if m.Status != outbox.StatusQueued || !strings.Contains(m.Attempts[0].Reply, "no link") {
		t.Errorf("got %+v", m)
	}
}

func TestRelay_storesOnlyTheHashOfTheTokenItMails(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	h := &hop{}
	startRelay(t, pool, h)
	eventually(t, pool, invite(t, pool, "ada@example.com"), hasStatus(outbox.StatusSent))
	link, _ := h.all()[0].Data["link"].(string)
	token, found := strings.CutPrefix(link, "https://app.example/join?token=")
	if !found || len(token) != 43 {
		t.Fatalf("link %q", link)
	}
	if !value[bool](t, pool, `SELECT token_hash = sha256(convert_to($1, 'UTF8')) FROM mailcrane.attempt`, token) {
		t.Error("the stored hash is not that of the token")
	}
	for _, table := range []string{"message", "invitation", "attempt", "river_job"} {
		if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.`+table+` AS t WHERE to_jsonb(t)::text LIKE '%' || $1 || '%'`, token); n != 0 {
			t.Errorf("the token is in table %s", table)
		}
	}
}

func TestRelay_saysWhenItCannotWork(t *testing.T) {
	t.Parallel()
	if _, err := outbox.NewRelay(outbox.RelayConfig{}); err == nil {
		t.Error("a relay of nothing was made")
	}
	relay, err := outbox.NewRelay(outbox.RelayConfig{Pool: outboxtest.EmptyDatabase(t), Senders: map[string]outbox.Sender{"email": &hop{}}, AllowUnsafe: true})
	if err != nil {
		t.Fatal(err)
	}
	if relay.Ready() == nil {
		t.Error("ready before it was started")
	}
	if err := relay.Start(t.Context()); err == nil {
		t.Error("started without a schema")
	}
	if err := relay.Stop(t.Context()); err != nil {
		t.Errorf("stop of a relay that never was: %v", err)
	}
	running := startRelay(t, outboxtest.Database(t), &hop{})
	if err := running.Ready(); err != nil {
		t.Error(err)
	}
}

func TestRelay_pollingAloneSends(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	startRelay(t, pool, &hop{}, func(c *outbox.RelayConfig) { c.PollOnly = true })
	eventually(t, pool, invite(t, pool, "ada@example.com"), hasStatus(outbox.StatusSent))
	if n := value[int](t, pool, `
		SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%'`); n != 0 {
		t.Error("it listens")
	}
}
