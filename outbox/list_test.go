package outbox_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

func TestList_pagesNewestFirst(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for i := range 5 {
		if _, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: fmt.Sprint("g", i%2), Email: fmt.Sprintf("u%d@example.com", i)}); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	filter := outbox.InvitationFilter{GroupID: "g0", Limit: 2}
	for {
		page, err := outbox.ListInvitations(t.Context(), pool, filter)
		if err != nil {
			t.Fatal(err)
		}
		for _, record := range page {
			seen = append(seen, record.Email)
			filter.After = record.ID
		}
		if len(page) < filter.Limit {
			break
		}
	}
	if got := strings.Join(seen, " "); got != "u4@example.com u2@example.com u0@example.com" {
		t.Errorf("pages: %s", got)
	}
	messages, err := outbox.ListMessages(t.Context(), pool, outbox.MessageFilter{Recipient: "U3@example.com", Status: outbox.StatusQueued})
	if err != nil || len(messages) != 1 {
		t.Errorf("%d messages, %v", len(messages), err)
	}
	if _, err := outbox.ListMessages(t.Context(), pool, outbox.MessageFilter{After: "nonsense"}); err == nil {
		t.Error("a cursor that is no id was taken")
	}
}

func TestGet_unknownIDsAreNotFound(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for _, id := range []string{"", "nonsense", "01900000-0000-7000-8000-000000000000"} {
		if _, err := outbox.GetInvitation(t.Context(), pool, id); !errors.Is(err, outbox.ErrNotFound) {
			t.Errorf("invitation %q: %v", id, err)
		}
		if _, err := outbox.GetMessage(t.Context(), pool, id); !errors.Is(err, outbox.ErrNotFound) {
			t.Errorf("message %q: %v", id, err)
		}
	}
}

var _ outbox.Tx = (*pgxpool.Pool)(nil)
