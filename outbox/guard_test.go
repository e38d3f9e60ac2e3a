package outbox_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

func TestQuota_oneAddressGetsThreeMailsOfAThousandInvitations(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	var group sync.WaitGroup
	for w := range 8 {
		group.Go(func() {
			for i := range 25 {
				inv := outbox.Invitation{
					Tenant: fmt.Sprintf("t%d", w%2), GroupID: fmt.Sprintf("g%d-%d", w, i), Email: "ada@example.com", IdempotencyKey: fmt.Sprintf("k%d-%d", w, i),
				}
				if i%2 == 0 {
					inv.Email = "Ada@Example.com"
				}
				if _, err := outbox.Invite(t.Context(), pool, inv); err != nil {
					t.Error(err)
				}
			}
			var many []outbox.Invitation
			for i := range 100 {
				many = append(many, outbox.Invitation{GroupID: fmt.Sprintf("m%d-%d", w, i), Email: "ada@example.com"})
			}
			if _, err := outbox.InviteMany(t.Context(), pool, many); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	statuses := value[string](t, pool, `SELECT string_agg(format('%s %s', status, n), ', ' ORDER BY status) FROM (SELECT status, count(*) AS n FROM mailcrane.message GROUP BY status) AS s`)
	if statuses != "queued 3, suppressed 997" {
		t.Error(statuses)
	}
	if reason := value[string](t, pool, `SELECT DISTINCT reason FROM mailcrane.message WHERE status = 'suppressed'`); reason != "invited 3 times within a day" {
		t.Error(reason)
	}
	exec(t, pool, `UPDATE mailcrane.recipient_use SET times = ARRAY(SELECT u.at - interval '1 day' FROM unnest(times) AS u (at))`)
	receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "next day", Email: "ada@example.com"})
	if err != nil || receipt.Result != outbox.Created {
		t.Errorf("%+v, %v", receipt, err)
	}
}

func TestQuota_countsWithinALargeCall(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	var many []outbox.Invitation
	for i := range 1000 {
		many = append(many, outbox.Invitation{GroupID: fmt.Sprint(i), Email: fmt.Sprintf("u%d@example.com", i%200)})
	}
	for call := range 2 {
		receipts, err := outbox.InviteMany(t.Context(), pool, many)
		if err != nil || len(receipts) != 1000 {
			t.Fatal(err)
		}
		if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message WHERE status = 'queued'`); n != 600 {
			t.Errorf("call %d: %d are queued", call+1, n)
		}
		for i := range many {
			many[i].GroupID += "again"
		}
	}
}

// Large calls at the same moment, and transactions with a snapshot from before,
// see what the others have counted.
func TestQuota_holdsBetweenLargeCallsAndSnapshots(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	var group sync.WaitGroup
	for call := range 8 {
		group.Go(func() {
			many := []outbox.Invitation{{GroupID: fmt.Sprint(call), Email: "ada@example.com"}}
			for i := range 150 {
				many = append(many, outbox.Invitation{GroupID: fmt.Sprint(call), Email: fmt.Sprintf("u%d-%d@example.com", call, i)})
			}
			if _, err := outbox.InviteMany(t.Context(), pool, many); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	const queued = `SELECT count(*) FROM mailcrane.message WHERE recipient = 'ada@example.com' AND status = 'queued'`
	if n := value[int](t, pool, queued); n != 3 {
		t.Errorf("%d are queued", n)
	}

	exec(t, pool, `DELETE FROM mailcrane.recipient_use`)
	for i := range 8 {
		group.Go(func() {
			err := pgx.BeginTxFunc(t.Context(), pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
				if _, err := tx.Exec(t.Context(), `SELECT 1 FROM mailcrane.invitation`); err != nil {
					return err
				}
				_, err := outbox.Invite(t.Context(), tx, outbox.Invitation{GroupID: fmt.Sprintf("again%d", i), Email: "ada@example.com"})
				return err
			})
			if pgErr, ok := errors.AsType[*pgconn.PgError](err); err != nil && (!ok || pgErr.Code != "40001") {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := value[int](t, pool, queued); n < 4 || n > 6 {
		t.Errorf("%d are queued", n)
	}
}

// As many as somebody likes in one transaction: the server's table of locks has its limits.
func TestQuota_takesNoLockPerAddress(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		count := func() (n int, err error) {
			err = tx.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()`).Scan(&n)
			return n, err
		}
		var before int
		for i := range 200 {
			if _, err := outbox.Invite(t.Context(), tx, outbox.Invitation{GroupID: "g", Email: fmt.Sprintf("u%d@example.com", i)}); err != nil {
				return err
			}
			if i == 0 {
				var err error
				if before, err = count(); err != nil {
					return err
				}
			}
		}
		after, err := count()
		if after > before+10 {
			t.Errorf("%d locks, after the first invitation %d", after, before)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestQuota_ofATenantAndItsInviters(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	exec(t, pool, `INSERT INTO mailcrane.quota (kind, tenant, at_most) VALUES ('tenant', '*', 1), ('tenant', 'a', 5), ('inviter', 'a', 3)`)
	invite := func(tenant, inviter string, n int) error {
		t.Helper()
		id := value[string](t, pool, `SELECT mailcrane.uuid_v7()::text`)
		var many []outbox.Invitation
		for i := range n {
			many = append(many, outbox.Invitation{Tenant: tenant, GroupID: id, InviterID: inviter, Email: fmt.Sprintf("u%d-%s@example.com", i, id)})
		}
		if n == 1 {
			_, err := outbox.Invite(t.Context(), pool, many[0])
			return err
		}
		_, err := outbox.InviteMany(t.Context(), pool, many)
		return err
	}
	refused := func(err error, want string) {
		t.Helper()
		limit, ok := errors.AsType[*outbox.LimitError](err)
		if !ok || limit.RetryAfter <= 0 || limit.RetryAfter > 24*time.Hour || !strings.Contains(err.Error(), want) {
			t.Errorf("%v instead of %s", err, want)
		}
	}
	for range 3 {
		if err := invite("a", "charles", 1); err != nil {
			t.Error(err)
		}
	}
	refused(invite("a", "charles", 1), "the inviter may invite 3 people a day")
	refused(invite("a", "ada", 4), "the inviter may invite 3 people a day")
	if err := invite("a", "ada", 2); err != nil {
		t.Error(err)
	}
	refused(invite("a", "grace", 1), "the tenant may invite 5 people a day")
	refused(invite("a", "", 2), "the tenant may invite 5 people a day")
	if err := invite("b", "charles", 1); err != nil {
		t.Error(err)
	}
	refused(invite("b", "charles", 1), "the tenant may invite 1 people a day")
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message`); n != 6 {
		t.Errorf("%d messages", n)
	}
	exec(t, pool, `UPDATE mailcrane.quota_use SET day = day - 1`)
	if err := invite("b", "charles", 1); err != nil {
		t.Error("the next day: ", err)
	}
}

func TestQuota_ofMessages(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	enqueue := func(tenant, key string) error {
		_, err := outbox.Enqueue(t.Context(), pool, outbox.Draft{Tenant: tenant, Recipient: "ada@example.com", Template: "verify", IdempotencyKey: key})
		return err
	}
	for range 5 {
		if err := enqueue("a", ""); err != nil {
			t.Fatal("without a quota: ", err)
		}
	}
	exec(t, pool, `INSERT INTO mailcrane.quota (kind, tenant, at_most) VALUES ('message', '*', 1), ('message', 'a', 3), ('tenant', 'a', 1)`)
	for _, key := range []string{"1", "2", "2", "1", "3"} { // a repeated request is none
		if err := enqueue("a", key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	err := enqueue("a", "")
	limit, ok := errors.AsType[*outbox.LimitError](err)
	if !ok || limit.RetryAfter <= 0 || limit.RetryAfter > 24*time.Hour || !strings.Contains(err.Error(), "the tenant may send 3 messages a day") {
		t.Errorf("the fourth: %v", err)
	}
	if err := enqueue("a", "2"); err != nil {
		t.Error("an old request: ", err)
	}
	if _, err := outbox.Invite(t.Context(), pool, outbox.Invitation{Tenant: "a", GroupID: "g", Email: "bob@example.com"}); err != nil {
		t.Error("invitations are counted apart: ", err)
	}
	if err := errors.Join(enqueue("b", ""), enqueue("c", "")); err != nil {
		t.Error("other tenants: ", err)
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message`); n != 5+3+1+2 {
		t.Errorf("%d messages", n)
	}
	exec(t, pool, `UPDATE mailcrane.quota_use SET day = day - 1`)
	if err := enqueue("a", ""); err != nil {
		t.Error("the next day: ", err)
	}
}

func TestQuota_ofMessagesHoldsForManyAtOnce(t *testing.T) {
	t.Parallel()
	const writers = 50
	pool := outboxtest.Database(t)
	wide := outboxtest.Connections(t, pool, writers)
	exec(t, pool, `INSERT INTO mailcrane.quota (kind, at_most) VALUES ('message', 10)`)
	var refused atomic.Int32
	outboxtest.AtOnce(t, pool, `LOCK TABLE mailcrane.quota_use IN EXCLUSIVE MODE`, writers, func(i int) {
		_, err := outbox.Enqueue(t.Context(), wide, outbox.Draft{Recipient: fmt.Sprintf("u%d@example.com", i), Template: "verify"})
		if _, limited := errors.AsType[*outbox.LimitError](err); limited {
			refused.Add(1)
		} else if err != nil {
			t.Error(err)
		}
	})
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message`); n != 10 || refused.Load() != writers-10 {
		t.Errorf("%d messages, %d refused", n, refused.Load())
	}
}

// Programs make links of much that has no scheme, and take many characters for others.
func TestName_mustNotReadAsALink(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for _, name := range []string{
		"write to eve@example.com", "eve@evil.co", "see https://evil.example", "www.evil.example", "evil.com", "Win now: evil.com/x", "//evil", "https:evil", "t.co",
		"EVIL.COM", "evil.co.uk", "evil.com.", "evil.рф", "evil.xn--p1ai", "evil-1.de", "https：／／evil", "evil．com", "evil。com", "evil｡com", "evil․com", "ｅｖｉｌ.ｃｏｍ", "eve＠evil．co",
		"Hi\u00adda", "a\u180eb", "a\u034fb", "a\u115fb", "a\u3164b", "a\uffa0b", "a\U000e0041b", "a\u200bb", "a\u202eb",
	} {
		for _, inv := range []outbox.Invitation{{GroupName: name}, {InviterName: name}} {
			inv.GroupID, inv.Email = "g", "ada@example.com"
			_, one := outbox.Invite(t.Context(), pool, inv)
			_, many := outbox.InviteMany(t.Context(), pool, []outbox.Invitation{inv, inv})
			for _, err := range []error{one, many} {
				if _, ok := errors.AsType[*outbox.InputError](err); !ok {
					t.Errorf("%q: %v", name, err)
				}
			}
		}
	}
}

func TestName_isLeftAlone(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for i, name := range []string{
		"Charles @ home", "J.R.R. Tolkien", "J. R. R. Tolkien", "Dr. Smith", "Dr.Smith", "Acme Inc.", "Node.js Berlin", "St.Gallen", "Ada, B.Sc.", "and/or", "Team: Rocket",
		"v1.2.3", "山田 太郎", "ⅩⅣ", "naïve Café", "Łódź", "משה", "مريم", "❤️ Club", "…", "3:2", "www", "Yahoo!", "e.V.", "A.I. Lab",
	} {
		for group, inv := range map[string]outbox.Invitation{"g": {GroupName: name}, "i": {InviterName: name}} {
			inv.GroupID, inv.Email = group, fmt.Sprintf("a%d@example.com", i)
			receipt, err := outbox.Invite(t.Context(), pool, inv)
			if err != nil {
				t.Errorf("%q: %v", name, err)
				continue
			}
			if record, err := outbox.GetInvitation(t.Context(), pool, receipt.InvitationID); err != nil || record.GroupName+record.InviterName != name {
				t.Errorf("%q became %q, %v", name, record.GroupName+record.InviterName, err)
			}
		}
	}
}

func TestName_hasSingleBlanks(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	long := strings.Repeat("x", 49) + strings.Repeat(" ", 30) + strings.Repeat("é", 50)
	for i, names := range [][2]string{
		{"  Analytical   Engine  Club ", "Analytical Engine Club"}, {"\u00a0a\u00a0\u3000 b\u2003", "a b"}, {"山田\u3000太郎", "山田 太郎"},
		{long, strings.Repeat("x", 49) + " " + strings.Repeat("é", 50)},
	} {
		inv := outbox.Invitation{GroupID: "g", Email: fmt.Sprintf("a%d@example.com", i), GroupName: names[0], InviterName: names[0]}
		receipts, err := outbox.InviteMany(t.Context(), pool, []outbox.Invitation{inv, {GroupID: "h", Email: inv.Email, GroupName: names[0], InviterName: names[0]}})
		if err != nil {
			t.Fatalf("%q: %v", names[0], err)
		}
		record, err := outbox.GetInvitation(t.Context(), pool, receipts[0].InvitationID)
		if err != nil || record.GroupName != names[1] || record.InviterName != names[1] {
			t.Errorf("%q became %q, %v", names[0], record.GroupName, err)
		}
	}
}
