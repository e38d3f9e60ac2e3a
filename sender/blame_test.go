package sender_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// A Send that is told to stop does not try the next relay.
func TestSend_failsOverNowhereOnceItsContextEnded(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	first := faulty(t, mailbox.Fault{At: mailbox.MailFrom, Hang: true, Do: cancel})
	second := faulty(t)
	email := newEmail(t, plainURL(first)+","+plainURL(second), breaks(time.Hour))
	for range 30 { // many more than open a breaker
		_, err := email.Send(ctx, invitation("ada@example.com"), noHandover(t))
		wantOutcome(t, err, outbox.Deferred)
		if !errors.Is(err, context.Canceled) || second.Connections() != 0 {
			t.Errorf("%v, %d connections", err, second.Connections())
		}
	}
}

// That we did not go on is no failure of the relay, however often.
func TestSend_blamesNoRelayForWhatIsOurs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		hang     int
		handover error
	}{
		"handover failed": {handover: errors.New("lost the right to send")},
		"given up":        {hang: 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var faults []mailbox.Fault
			if test.hang > 0 {
				faults = append(faults, mailbox.Fault{At: mailbox.MailFrom, Hang: true, Times: test.hang})
			}
			email := newEmail(t, plainURL(faulty(t, faults...)), breaks(time.Hour))
			for range 8 {
				ctx, cancel := context.WithCancel(t.Context())
				if test.hang > 0 {
					cancel()
					ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
				}
				_, err := email.Send(ctx, invitation("ada@example.com"), (&handovers{err: test.handover}).record)
				cancel()
				if _, ok := errors.AsType[*outbox.SendError](err); !ok {
					t.Errorf("%v is no SendError", err)
				}
			}
			_ = send(t, email, outbox.Accepted)
		})
	}
}
