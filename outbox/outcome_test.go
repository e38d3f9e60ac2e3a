package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

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
