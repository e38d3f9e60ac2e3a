package sender_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// While one message waits for its relay, others are composed in memory that was
// used before. None of them may end up in its place.
func TestSend_transmitsWhatComposeGives(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{Faults: []mailbox.Fault{{At: mailbox.Data, Delay: 2 * time.Millisecond}}})
	email := newEmail(t, plainURL(box))
	message := func(i int) *outbox.Message {
		m := invitation(fmt.Sprintf("ada%d@example.com", i))
		m.HeaderMessageID = fmt.Sprintf("%d@mail.example.com", i)
		m.Data["group_name"] = fmt.Sprintf("Club %d\n.%s", i, strings.Repeat(" more", i))
		return m
	}
	const senders, each = 8, 25
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				if _, err := email.Send(t.Context(), message(s*each+i), func(context.Context, string) error { return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range senders * each {
		m := message(i)
		want, err := email.Compose(m)
		if err != nil {
			t.Fatal(err)
		}
		mails := box.Mails(m.Recipient)
		if len(mails) != 1 || !bytes.Equal(mails[0].Raw, want) {
			t.Fatalf("message %d is not what arrived: %d mails", i, len(mails))
		}
	}
}
