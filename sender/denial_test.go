package sender_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// "Relay access denied" about one recipient: the next relay may do it; only if
// all say so the message is rejected.
func TestSend_asksTheOthersWhenRelayingIsDenied(t *testing.T) {
	t.Parallel()
	denied := mailbox.Fault{At: mailbox.Rcpt, Reply: "554 5.7.1 relay access denied"}
	for name, test := range map[string]struct {
		urls func(t *testing.T) []string
		want outbox.Outcome
	}{
		"by the only one": {func(t *testing.T) []string { return []string{plainURL(faulty(t, denied))} }, outbox.Rejected},
		"by one of two":   {func(t *testing.T) []string { return []string{plainURL(faulty(t, denied)), plainURL(faulty(t))} }, outbox.Accepted},
		"by both":         {func(t *testing.T) []string { return []string{plainURL(faulty(t, denied)), plainURL(faulty(t, denied))} }, outbox.Rejected},
		"by one, and the other is down": {func(t *testing.T) []string {
			return []string{plainURL(faulty(t, denied)), "smtp://" + nobody(t) + "?tls=none"}
		}, outbox.Deferred},
		"the other way round": {func(t *testing.T) []string {
			return []string{"smtp://" + nobody(t) + "?tls=none", plainURL(faulty(t, denied))}
		}, outbox.Deferred},
		"by one, and the other refuses us": {func(t *testing.T) []string {
			return []string{plainURL(faulty(t, denied)), plainURL(faulty(t, mailbox.Fault{At: mailbox.EHLO, Reply: "554 no"}))}
		}, outbox.Deferred},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			email := newEmail(t, strings.Join(test.urls(t), ","))
			var h handovers
			reply, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
			wantOutcome(t, err, test.want)
			if _, not := errors.AsType[*outbox.Unavailable](err); not || test.want == outbox.Rejected && reply.Code != 554 {
				t.Errorf("reply %+v, error %v", reply, err)
			}
		})
	}
}

// Denied to everybody is no matter of the recipients.
func TestSend_takesDenialsForARefusalWithEvidence(t *testing.T) {
	t.Parallel()
	denies := faulty(t, mailbox.Fault{At: mailbox.Rcpt, Reply: "550 5.7.1 relay access denied"})
	logger, log := recordingLogger()
	email := newEmail(t, plainURL(denies), breaks(time.Hour), func(c *sender.EmailConfig) { c.Logger = logger })
	for n := range 9 {
		_, err := email.Send(t.Context(), invitation(fmt.Sprintf("ada@example%d.com", n%5)), noHandover(t))
		wantOutcome(t, err, outbox.Rejected)
	}
	if strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("the log is %q", log.String())
	}
	for range 2 {
		_, err := email.Send(t.Context(), invitation("ada@example9.com"), noHandover(t))
		if wait := wantUnavailable(t, err); wait < time.Minute {
			t.Errorf("to come back in %s", wait)
		}
	}
	if denies.Connections() != 1 || strings.Count(log.String(), "level=ERROR") != 1 {
		t.Errorf("%d connections; the log is %q", denies.Connections(), log.String())
	}
}
