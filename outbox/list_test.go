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

// There may be millions of rows beside those that somebody asks for.
func TestList_goesByIndex(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	exec(t, pool, `INSERT INTO mailcrane.invitation (tenant, group_id, email, expires_at)
		SELECT 't' || i % 7, 'g' || i / 10, 'u' || i || '@example.com', now() + interval '1 day' FROM generate_series(1, 20000) AS i`)
	exec(t, pool, `INSERT INTO mailcrane.message (tenant, invitation_id, recipient, template, status, finished_at)
		SELECT tenant, id, email, 'invitation', 'sent', now() FROM mailcrane.invitation`)
	exec(t, pool, `INSERT INTO mailcrane.message (recipient, template, status, finished_at, job_id)
		SELECT 'm' || i || '@example.com', 'verify', CASE i WHEN 3 THEN 'failed' WHEN 4 THEN 'queued' ELSE 'sent' END,
			CASE WHEN i <> 4 THEN now() END, CASE WHEN i = 4 THEN 1 END
		FROM generate_series(1, 20000) AS i`)
	invitation := value[string](t, pool, `SELECT id::text FROM mailcrane.invitation WHERE email = 'u9@example.com'`)
	exec(t, pool, `ANALYZE mailcrane.invitation, mailcrane.message`)

	tx := outboxtest.Begin(t, pool)
	few := func(what string, list func() (int, error), want int) {
		t.Helper()
		scansBefore, rowsBefore := reads(t, tx)
		n, err := list()
		if err != nil || n != want {
			t.Errorf("%s: %d instead of %d, %v", what, n, want, err)
		}
		if scans, rows := reads(t, tx); scans > scansBefore || rows-rowsBefore > 50 {
			t.Errorf("%s: %d scans of all, %d rows by index", what, scans-scansBefore, rows-rowsBefore)
		}
	}
	for f, want := range map[outbox.MessageFilter]int{
		{Recipient: "U7@example.com"}:                                       1,
		{Recipient: "M7@example.com"}:                                       1,
		{Recipient: "nobody@example.com"}:                                   0,
		{Recipient: "m3@example.com", Status: outbox.StatusFailed}:          1,
		{Recipient: "u7@example.com", Tenant: "t0", Template: "invitation"}: 1,
		{Status: outbox.StatusQueued}:                                       1,
		{Status: outbox.StatusFailed}:                                       1,
		{Status: outbox.StatusHeld, Tenant: "t1"}:                           0,
		{InvitationID: invitation}:                                          1,
		{Limit: 5}:                                                          5,
	} {
		few(fmt.Sprintf("messages %+v", f), func() (int, error) {
			found, err := outbox.ListMessages(t.Context(), tx, f)
			return len(found), err
		}, want)
	}
	for f, want := range map[outbox.InvitationFilter]int{
		{GroupID: "g42"}:                    10,
		{GroupID: "g42", Tenant: "t2"}:      2,
		{GroupID: "g42", Status: "pending"}: 10,
		{GroupID: "none"}:                   0,
		{Email: "U7@example.com"}:           1,
		{Limit: 5}:                          5,
	} {
		few(fmt.Sprintf("invitations %+v", f), func() (int, error) {
			found, err := outbox.ListInvitations(t.Context(), tx, f)
			return len(found), err
		}, want)
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
