package outbox_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

func TestInvite_writesInvitationMessageAndJob(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	sendAfter := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{
		Tenant: "acme", GroupID: "42", GroupName: "Analytical Engine Club", Email: " Ada@Example.COM ",
		InviterID: "7", InviterName: "Charles", Link: "https://app.example/join/x", Locale: "de_AT",
		Data: map[string]any{"plan": "pro", "nested": map[string]any{"nothing": nil}}, SendAfter: sendAfter,
		ExpiresIn: 48 * time.Hour, Priority: 1, IdempotencyKey: "k1",
	})
	if err != nil || receipt.Result != outbox.Created {
		t.Fatal(receipt, err)
	}
	got, err := outbox.GetInvitation(t.Context(), pool, receipt.InvitationID)
	if err != nil {
		t.Fatal(err)
	}
	expires := sendAfter.Add(48 * time.Hour)
	want := outbox.InvitationRecord{
		ID: receipt.InvitationID, Tenant: "acme", GroupID: "42", GroupName: "Analytical Engine Club", Email: "Ada@example.com",
		InviterID: "7", InviterName: "Charles", Link: "https://app.example/join/x", Locale: "de-AT",
		Data: map[string]any{"plan": "pro", "nested": map[string]any{"nothing": nil}}, Status: "pending",
		CreatedAt: got.CreatedAt, ExpiresAt: expires,
		Messages: []outbox.MessageRecord{{
			ID: receipt.MessageID, Tenant: "acme", InvitationID: receipt.InvitationID, Channel: "email", Recipient: "Ada@example.com",
			Template: "invitation", Locale: "de-AT", Data: map[string]any{}, Status: outbox.StatusQueued, Priority: 1,
			SendAfter: &sendAfter, CreatedAt: got.CreatedAt, ExpiresAt: &expires, Attempts: []outbox.Attempt{},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The job row that the SQL function writes is the one that River writes.
func TestInvite_jobRowIsThatOfRiversInsertTx(t *testing.T) {
	t.Parallel()
	for name, sendAfter := range map[string]time.Time{"at once": {}, "later": time.Now().Add(time.Hour)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := outboxtest.Database(t)
			tx := outboxtest.Begin(t, pool)
			receipt, err := outbox.Invite(t.Context(), tx, outbox.Invitation{GroupID: "g", Email: "ada@example.com", SendAfter: sendAfter})
			if err != nil {
				t.Fatal(err)
			}
			client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Schema: "mailcrane"})
			if err != nil {
				t.Fatal(err)
			}
			inserted, err := client.InsertTx(t.Context(), tx, deliver{receipt.MessageID},
				&river.InsertOpts{MaxAttempts: 32767, Priority: 2, ScheduledAt: sendAfter})
			if err != nil {
				t.Fatal(err)
			}
			row := func(where string, arg any) map[string]any {
				var document []byte
				if err := tx.QueryRow(t.Context(), `SELECT to_jsonb(j) FROM mailcrane.river_job AS j WHERE `+where, arg).Scan(&document); err != nil {
					t.Fatal(err)
				}
				columns := map[string]any{}
				if err := json.Unmarshal(document, &columns); err != nil {
					t.Fatal(err)
				}
				return columns
			}
			theirs, ours := row(`id = $1`, inserted.Job.ID), row(`id <> $1`, inserted.Job.ID)
			delete(theirs, "id")
			delete(ours, "id")
			for _, column := range []string{"created_at", "scheduled_at"} { // River takes the client's clock, to the microsecond or so
				a, b := parseTime(t, theirs[column]), parseTime(t, ours[column])
				if d := a.Sub(b).Abs(); d > 5*time.Second {
					t.Errorf("%s: River %s, Mailcrane %s", column, a, b)
				}
				delete(theirs, column)
				delete(ours, column)
			}
			if diff := cmp.Diff(theirs, ours); diff != "" {
				t.Errorf("-River +Mailcrane:\n%s", diff)
			}
		})
	}
}

type deliver struct {
	MessageID string `json:"message_id"`
}

func (deliver) Kind() string { return "deliver" }

func parseTime(t *testing.T, v any) time.Time {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339, fmt.Sprint(v))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestInvite_existingAndSuppressed(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	call := func(inv outbox.Invitation) outbox.Receipt {
		t.Helper()
		receipt, err := outbox.Invite(t.Context(), pool, inv)
		if err != nil {
			t.Fatal(err)
		}
		return receipt
	}
	exec(t, pool, `DELETE FROM mailcrane.quota`)
	first := call(outbox.Invitation{GroupID: "g", Email: "ada@example.com", IdempotencyKey: "k"})
	same := outbox.Receipt{InvitationID: first.InvitationID, MessageID: first.MessageID, Result: outbox.Existing}
	if got := call(outbox.Invitation{GroupID: "g", Email: "ADA@example.com"}); got != same {
		t.Errorf("pending for the address: %+v", got)
	}
	if got := call(outbox.Invitation{GroupID: "g", Email: "Ada@example.com", IdempotencyKey: "k"}); got != same {
		t.Errorf("same key: %+v", got)
	}
	for what, inv := range map[string]outbox.Invitation{
		"other group":  {GroupID: "h", Email: "ada@example.com"},
		"other tenant": {Tenant: "t", GroupID: "g", Email: "ada@example.com", IdempotencyKey: "k"},
	} {
		if got := call(inv); got.Result != outbox.Created {
			t.Errorf("%s: %+v", what, got)
		}
	}
	exec(t, pool, `UPDATE mailcrane.invitation SET expires_at = now() - interval '1 second' WHERE id = $1::text::uuid`, first.InvitationID)
	if got := call(outbox.Invitation{GroupID: "g", Email: "ada@example.com"}); got.Result != outbox.Created {
		t.Errorf("after the first has lapsed: %+v", got)
	}
	if status := value[string](t, pool, `SELECT status FROM mailcrane.invitation WHERE id = $1::text::uuid`, first.InvitationID); status != "expired" {
		t.Errorf("the lapsed one is %s", status)
	}

	exec(t, pool, `INSERT INTO mailcrane.suppression (address, reason) VALUES ('no@example.com', 'bounced')`)
	suppressed := call(outbox.Invitation{GroupID: "g", Email: "No@example.com"})
	m, err := outbox.GetMessage(t.Context(), pool, suppressed.MessageID)
	if err != nil || suppressed.Result != outbox.Suppressed || m.Status != outbox.StatusSuppressed || m.Reason != "bounced" {
		t.Errorf("%+v, %+v, %v", suppressed, m, err)
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.river_job WHERE args ->> 'message_id' = $1`, suppressed.MessageID); n != 0 {
		t.Error("a job was written for a suppressed message")
	}
}

func TestInviteMany_answersInOrder(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	const n = 1000
	invitations := make([]outbox.Invitation, n)
	for i := range invitations {
		invitations[i] = outbox.Invitation{GroupID: "g", Email: fmt.Sprintf("u%d@example.com", (n-i)/2)} // each address twice
	}
	receipts, err := outbox.InviteMany(t.Context(), pool, invitations)
	if err != nil || len(receipts) != n {
		t.Fatal(len(receipts), err)
	}
	created := 0
	for i, r := range receipts {
		if r.Result == outbox.Created {
			created++
		}
		record, err := outbox.GetInvitation(t.Context(), pool, r.InvitationID)
		if err != nil || record.Email != invitations[i].Email || record.Messages[0].ID != r.MessageID {
			t.Fatalf("receipt %d is for %q, want %q (%v)", i, record.Email, invitations[i].Email, err)
		}
	}
	if rows := value[int](t, pool, `SELECT count(*) FROM mailcrane.invitation`); created != rows || rows != n/2+1 {
		t.Errorf("%d created, %d rows", created, rows)
	}
	if receipts, err := outbox.InviteMany(t.Context(), pool, nil); err != nil || len(receipts) != 0 {
		t.Errorf("empty batch: %v, %v", receipts, err)
	}
}

func TestInvite_fiftyAtOnceWriteOneInvitation(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	wide := outboxtest.Connections(t, pool, 50)
	var mu sync.Mutex
	results := map[outbox.Result]int{}
	ids := map[string]bool{}
	outboxtest.AtOnce(t, pool, `LOCK TABLE mailcrane.invitation IN EXCLUSIVE MODE`, 50, func(int) {
		receipt, err := outbox.Invite(t.Context(), wide, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		results[receipt.Result]++
		ids[receipt.MessageID] = true
	})
	if results[outbox.Created] != 1 || results[outbox.Existing] != 49 || len(ids) != 1 {
		t.Errorf("results %v, messages %v", results, ids)
	}
}

func TestInviteMany_overlappingBatchesDoNotDeadlock(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	var group sync.WaitGroup
	for b := range 8 {
		group.Go(func() {
			invitations := make([]outbox.Invitation, 200)
			for i := range invitations {
				k := i
				if b%2 == 1 {
					k = len(invitations) - 1 - i // the other way round
				}
				invitations[i] = outbox.Invitation{GroupID: "g", Email: fmt.Sprintf("u%d@example.com", k)}
			}
			if _, err := outbox.InviteMany(t.Context(), pool, invitations); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message`); n != 200 {
		t.Errorf("%d messages, want 200", n)
	}
}

func TestEnqueue_writesMessageAndJob(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	draft := outbox.Draft{
		Recipient: "Ada@Example.com", Template: "verify", Locale: "de", IdempotencyKey: "k",
		Data: map[string]any{"link": "https://app.example/verify/x"}, ExpiresIn: time.Hour,
	}
	receipt, err := outbox.Enqueue(t.Context(), pool, draft)
	if err != nil || receipt.Result != outbox.Created {
		t.Fatal(receipt, err)
	}
	m, err := outbox.GetMessage(t.Context(), pool, receipt.MessageID)
	if err != nil || m.Recipient != "Ada@example.com" || m.Template != "verify" || m.Locale != "de" || m.Priority != 2 ||
		m.Data["link"] != draft.Data["link"] || m.ExpiresAt.Sub(m.CreatedAt) != time.Hour || m.InvitationID != "" {
		t.Errorf("%+v, %v", m, err)
	}
	again, err := outbox.Enqueue(t.Context(), pool, draft)
	if err != nil || again.Result != outbox.Existing || again.MessageID != receipt.MessageID {
		t.Errorf("same key: %+v, %v", again, err)
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.river_job`); n != 1 {
		t.Errorf("%d jobs", n)
	}
}

func TestWrites_takeATransactionOfDatabaseSQL(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	db, err := sql.Open("pgx", pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // the test is over
	for _, commit := range []bool{false, true} {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		receipt, err := outbox.Invite(t.Context(), outbox.SQL(tx), outbox.Invitation{GroupID: "g", Email: "ada@example.com", Data: map[string]any{"a": 1.5}})
		if err != nil {
			t.Fatal(err)
		}
		verify, err := outbox.Enqueue(t.Context(), outbox.SQL(tx), outbox.Draft{Recipient: "ada@example.com", Template: "verify", SendAfter: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := outbox.GetInvitation(t.Context(), outbox.SQL(tx), receipt.InvitationID); err != nil {
			t.Error(err)
		}
		if list, err := outbox.ListMessages(t.Context(), outbox.SQL(tx), outbox.MessageFilter{}); err != nil || len(list) != 2 {
			t.Errorf("list: %d, %v", len(list), err)
		}
		if commit {
			err = tx.Commit()
		} else {
			err = tx.Rollback()
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = outbox.GetMessage(t.Context(), pool, verify.MessageID)
		if there := err == nil; there != commit || err != nil && !errors.Is(err, outbox.ErrNotFound) {
			t.Errorf("committed %v, there %v (%v)", commit, there, err)
		}
	}
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	_, err = outbox.Invite(t.Context(), outbox.SQL(tx), outbox.Invitation{GroupID: "g", Email: "nobody"})
	if input, ok := errors.AsType[*outbox.InputError](err); !ok || input.Problems[0].Field != "email" {
		t.Errorf("bad input: %v", err)
	}
}

// Only one transaction at a time notifies; the jobs of the others are found by
// the next fetch.
func TestInvite_notifiesThroughAGate(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	listener, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Release()
	if _, err := listener.Exec(t.Context(), `LISTEN "mailcrane.river_insert"`); err != nil {
		t.Fatal(err)
	}
	begin := func(email string) pgx.Tx {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := outbox.Invite(t.Context(), tx, outbox.Invitation{GroupID: "g", Email: email}); err != nil {
			t.Fatal(err)
		}
		return tx
	}
	first, second := begin("a@example.com"), begin("b@example.com") // the first holds the gate
	for _, tx := range []pgx.Tx{second, first} {
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, pool, `SELECT pg_notify('mailcrane.river_insert', 'end')`)
	var payloads []string
	for len(payloads) == 0 || payloads[len(payloads)-1] != "end" {
		n, err := listener.Conn().WaitForNotification(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		payloads = append(payloads, n.Payload)
	}
	if want := []string{`{"queue": "default"}`, "end"}; !cmp.Equal(want, payloads) {
		t.Errorf("notifications %q, want %q", payloads, want)
	}
}
