package sender_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// At a slow relay hundreds of messages wait in the daemon itself. A single message
// goes before those of a batch there, and before the second one of another tenant.
func TestPool_keepsNobodyWaitingBehindACrowd(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		tenant   string
		priority int
	}{
		"another tenant":   {"other", 2},
		"before the batch": {"many", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const crowd = 30
			box := mailbox.Start(t, mailbox.Config{Faults: []mailbox.Fault{{At: mailbox.Dot, Delay: 10 * time.Millisecond}}})
			r := newRow(t, plainURL(box), 1)
			busy, end := make(chan struct{}), make(chan struct{})
			r.messages[0].h.do = func() { close(busy); <-end }
			var all sync.WaitGroup
			all.Go(func() { r.start(t) })
			<-busy
			for n := range crowd + 1 {
				m := invitation("crowd@example.com")
				m.Tenant, m.Priority = "many", 2
				if n == crowd {
					m.Recipient, m.Tenant, m.Priority = "single@example.com", test.tenant, test.priority
				}
				all.Go(func() {
					var h handovers
					_, err := r.email.Send(t.Context(), m, h.record)
					wantOutcome(t, err, outbox.Accepted)
				})
				waitForMessages(t, r.email, n+1)
			}
			close(end)
			all.Wait()
			place := slices.IndexFunc(box.Mails(""), func(m mailbox.Mail) bool { return strings.HasPrefix(m.To[0], "single") })
			if place < 0 || place > 2 {
				t.Errorf("%d of %d messages went before it", place, crowd)
			}
		})
	}
}
