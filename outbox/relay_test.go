package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

func TestRelay_rejectedRecipientIsNotRetried(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	startRelay(t, pool, sendFunc(func(context.Context, *outbox.Message, outbox.Handover) (outbox.Reply, error) {
		return outbox.Reply{Relay: relayName, Code: 550, Enhanced: "5.1.1", Text: "no such user"},
			&outbox.SendError{Outcome: outbox.Rejected, Err: errors.New("RCPT: 550")}
	}))
	id := invite(t, pool, "nobody@example.com")
	m := eventually(t, pool, id, hasStatus(outbox.StatusFailed))
	if m.Reason != "550 5.1.1 no such user" || !slices.Equal(outcomes(m), []outbox.Outcome{outbox.Rejected}) {
		t.Errorf("got %+v", m)
	}
	if state := value[string](t, pool, `SELECT state::text FROM mailcrane.river_job`); state != "completed" {
		t.Errorf("the job is %s: it would be tried again", state)
	}
}

func TestRelay_deferredMessageIsRetriedUnderTheSameIdentity(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	h := &hop{}
	var identities []string
	var calls atomic.Int32
	startRelay(t, pool, sendFunc(func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		identities = append(identities, fmt.Sprint(m.HeaderMessageID, m.Date.UTC(), m.Data["link"]))
		if calls.Add(1) < 3 {
			return outbox.Reply{Relay: relayName, Code: 451, Text: "greylisted"}, errors.New("RCPT: 451")
		}
		return h.Send(ctx, m, handover)
	}))
	m := eventually(t, pool, invite(t, pool, "ada@example.com"), hasStatus(outbox.StatusSent))
	if !slices.Equal(outcomes(m), []outbox.Outcome{outbox.Deferred, outbox.Deferred, outbox.Accepted}) {
		t.Errorf("outcomes %v", outcomes(m))
	}
	if len(slices.Compact(identities)) != 1 {
		t.Errorf("identities differ: %q", identities)
	}
}

func TestRelay_unknownOutcomeIsRecordedAndRepeatedUnderTheSameMessageID(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	h := &hop{}
	h.answers = map[string]sendFunc{"ada@example.com": func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		if err := handover(ctx, relayName); err != nil {
			return outbox.Reply{}, err
		}
		reply := h.accept(m)
		if m.Attempt == 1 {
			return outbox.Reply{Relay: relayName}, &outbox.SendError{Outcome: outbox.Unknown, Err: errors.New("the line went dead")}
		}
		return reply, nil
	}}
	startRelay(t, pool, h)
	m := eventually(t, pool, invite(t, pool, "ada@example.com"), hasStatus(outbox.StatusSent))
	if !slices.Equal(outcomes(m), []outbox.Outcome{outbox.Unknown, outbox.Accepted}) || m.Attempts[0].Reply != "the line went dead" {
		t.Errorf("attempts %+v", m.Attempts)
	}
	copies := h.all()
	if len(copies) != 2 || copies[0].HeaderMessageID != copies[1].HeaderMessageID || copies[0].HeaderMessageID != m.HeaderMessageID {
		t.Errorf("copies %+v", copies)
	}
}

func TestRelay_R2_messageIsHeldWhenItsRepeatsAreUsedUp(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	var sends atomic.Int32
	startRelay(t, pool, sendFunc(func(ctx context.Context, _ *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		if err := handover(ctx, relayName); err != nil {
			return outbox.Reply{}, err
		}
		sends.Add(1)
		return outbox.Reply{}, &outbox.SendError{Outcome: outbox.Unknown, Err: errors.New("the line went dead")}
	}))
	m := eventually(t, pool, invite(t, pool, "ada@example.com"), hasStatus(outbox.StatusHeld))
	if sends.Load() != 3 || len(m.Attempts) != 3 || m.FinishedAt != nil || m.Reason == "" {
		t.Errorf("%d sends, message %+v", sends.Load(), m)
	}
}

func TestRelay_panicOfASenderIsAnErrorOfThatMessageOnly(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	h := &hop{}
	h.answers = map[string]sendFunc{
		"before@example.com": func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
			panic("before the handover")
		},
		"after@example.com": func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
			if err := handover(ctx, relayName); err != nil {
				return outbox.Reply{}, err
			}
			panic("after the handover")
		},
	}
	startRelay(t, pool, h, func(c *outbox.RelayConfig) { c.RetryMin, c.RetryMax = time.Hour, time.Hour })
	before, after := invite(t, pool, "before@example.com"), invite(t, pool, "after@example.com")
	first := func(m outbox.MessageRecord) bool { return len(m.Attempts) == 1 && m.Attempts[0].Outcome != "" }
	if m := eventually(t, pool, before, first); m.Attempts[0].Outcome != outbox.Deferred {
		t.Errorf("before the handover: %+v", m.Attempts)
	}
	if m := eventually(t, pool, after, first); m.Attempts[0].Outcome != outbox.Unknown {
		t.Errorf("after the handover: %+v", m.Attempts)
	}
	eventually(t, pool, invite(t, pool, "other@example.com"), hasStatus(outbox.StatusSent))
}

func TestRelay_withoutAHandoverNothingCountsAsAcceptedOrUnknown(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	startRelay(t, pool, sendFunc(func(_ context.Context, m *outbox.Message, _ outbox.Handover) (outbox.Reply, error) {
		if m.Attempt == 1 {
			return outbox.Reply{}, nil // a sender that forgets the protocol
		}
		return outbox.Reply{}, &outbox.SendError{Outcome: outbox.Rejected, Err: errors.New("no")}
	}))
	m := eventually(t, pool, invite(t, pool, "ada@example.com"), hasStatus(outbox.StatusFailed))
	if !slices.Equal(outcomes(m), []outbox.Outcome{outbox.Deferred, outbox.Rejected}) {
		t.Errorf("outcomes %v", outcomes(m))
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
	open := make(chan int, 2)
	count := func() int {
		return value[int](t, pool, `
			SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND state <> 'active'`)
	}
	h := &hop{}
	startRelay(t, pool, sendFunc(func(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
		open <- count()
		if err := handover(ctx, relayName); err != nil {
			return outbox.Reply{}, err
		}
		open <- count()
		return h.accept(m), nil
	}))
	eventually(t, pool, invite(t, pool, "ada@example.com"), hasStatus(outbox.StatusSent))
	if before, after := <-open, <-open; before != 0 || after != 0 {
		t.Errorf("open transactions: %d before the handover, %d after it", before, after)
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
