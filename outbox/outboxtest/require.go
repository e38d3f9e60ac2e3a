package outboxtest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
)

// RequireQueued fails the test unless exactly one message from the template is
// queued for the recipient, and gives it. tx may be the transaction under test,
// or a pool to see what was committed.
func RequireQueued(tb testing.TB, tx outbox.Tx, recipient, template string) outbox.MessageRecord {
	tb.Helper()
	messages := list(tb, tx, outbox.MessageFilter{Recipient: recipient, Template: template, Status: outbox.StatusQueued})
	if len(messages) != 1 {
		tb.Fatalf("%d messages %q are queued for %s, want 1; all messages:\n%s", len(messages), template, recipient, describe(tb, tx))
	}
	return messages[0]
}

// RequireNoneQueued fails the test if any message is queued for the recipient;
// with an empty recipient, if any message is queued at all.
func RequireNoneQueued(tb testing.TB, tx outbox.Tx, recipient string) {
	tb.Helper()
	if messages := list(tb, tx, outbox.MessageFilter{Recipient: recipient, Status: outbox.StatusQueued}); len(messages) != 0 {
		tb.Fatalf("messages are queued:\n%s", describe(tb, tx))
	}
}

func list(tb testing.TB, tx outbox.Tx, filter outbox.MessageFilter) []outbox.MessageRecord {
	tb.Helper()
	messages, err := outbox.ListMessages(context.Background(), tx, filter)
	if err != nil {
		tb.Fatalf("outboxtest: %v", err)
	}
	return messages
}

func describe(tb testing.TB, tx outbox.Tx) string {
	tb.Helper()
	var b strings.Builder
	for _, m := range list(tb, tx, outbox.MessageFilter{}) {
		fmt.Fprintf(&b, "  %s to %s: %s\n", m.Template, m.Recipient, m.Status)
	}
	if b.Len() == 0 {
		return "  none"
	}
	return b.String()
}
