package outbox_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

func TestInvite_refusesBadInputAndWritesNothing(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	long := strings.Repeat("x", 300)
	for field, bad := range map[string][]outbox.Invitation{
		"email": {
			{Email: ""}, {Email: "nobody"}, {Email: "a@b"}, {Email: "@b.example"}, {Email: "a@"}, {Email: "a@b.example."},
			{Email: "Ada <ada@example.com>"}, {Email: "a b@example.com"}, {Email: "a@b@example.com"}, {Email: "a..b@example.com"},
			{Email: ".a@example.com"}, {Email: `"a b"@example.com`}, {Email: "a@[127.0.0.1]"}, {Email: "a@127.0.0.1"},
			{Email: "a@-b.example"}, {Email: "a@b-.example"}, {Email: "a@b_c.example"}, {Email: "ä@example.com"},
			{Email: "a@example.com\r\nBcc: x@example.com"}, {Email: "a@exa\u200bmple.com"}, {Email: "a,b@example.com"},
			{Email: strings.Repeat("x", 65) + "@example.com"}, {Email: "a@" + long + ".example"}, {Email: "a@" + strings.Repeat("x", 64) + ".example"},
		},
		"group_id":        {{GroupID: " "}, {GroupID: long}, {GroupID: "a\nb"}},
		"group_name":      {{GroupName: "win at https://spam.example"}, {GroupName: "www.spam.example"}, {GroupName: "a\u202eb"}, {GroupName: long}},
		"inviter_name":    {{InviterName: "Ada\nBcc: x"}, {InviterName: "see http://x"}},
		"inviter_id":      {{InviterID: long}},
		"link":            {{Link: "javascript:alert(1)"}, {Link: "ftp://x.example/"}, {Link: "/join"}, {Link: "https://"}, {Link: "https://x.example/a b"}, {Link: "https://x.example/" + strings.Repeat("x", 2048)}},
		"locale":          {{Locale: "german!"}, {Locale: "d"}, {Locale: "../en"}},
		"data":            {{Data: map[string]any{"x": strings.Repeat("x", 70000)}}},
		"send_after":      {{SendAfter: time.Now().AddDate(2, 0, 0)}},
		"expires_in":      {{ExpiresIn: -time.Hour}, {ExpiresIn: time.Millisecond}, {ExpiresIn: 400 * 24 * time.Hour}},
		"priority":        {{Priority: 5}, {Priority: -1}},
		"idempotency_key": {{IdempotencyKey: long}, {IdempotencyKey: "a\x01"}},
		"tenant":          {{Tenant: long}},
	} {
		for _, inv := range bad {
			if inv.Email == "" && field != "email" {
				inv.Email = "ada@example.com"
			}
			if inv.GroupID == "" && field != "group_id" {
				inv.GroupID = "g"
			}
			_, err := outbox.Invite(t.Context(), pool, inv)
			requireProblem(t, err, field)
			if value := inv.Email; field == "email" && len(value) > 3 && err != nil && strings.Contains(err.Error(), value) {
				t.Errorf("the error repeats the address: %v", err)
			}
		}
	}
	if n := value[int](t, pool, `SELECT (SELECT count(*) FROM mailcrane.invitation) + (SELECT count(*) FROM mailcrane.message) + (SELECT count(*) FROM mailcrane.river_job)`); n != 0 {
		t.Errorf("%d rows were written", n)
	}
}

func requireProblem(t *testing.T, err error, field string) {
	t.Helper()
	input, ok := errors.AsType[*outbox.InputError](err)
	if !ok || len(input.Problems) != 1 || input.Problems[0].Field != field || input.Problems[0].Problem == "" || input.Hint == "" {
		t.Errorf("%s: got %+v (%v)", field, input, err)
	}
}

func TestInvite_takesUnusualButValidInput(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for i, inv := range []outbox.Invitation{
		{Email: "a.b+c=d@sub.example.co.uk"}, {Email: "!#$%&'*+/=?^_`{|}~-@example.com"}, {Email: "a@bücher.example"},
		{Email: "a@xn--bcher-kva.example"}, {Email: "a@1.example"}, {Email: strings.Repeat("x", 64) + "@example.com"},
		{GroupName: "Ada & Söhne <GmbH> “quoted” 🚂"}, {Link: "http://localhost:3000/join?x=1#y"}, {Locale: "zh-Hans-CN"},
		{ExpiresIn: 366 * 24 * time.Hour}, {SendAfter: time.Now().Add(-time.Hour)},
	} {
		if inv.Email == "" {
			inv.Email = fmt.Sprintf("u%d@example.com", i)
		}
		inv.GroupID = "g"
		if _, err := outbox.Invite(t.Context(), pool, inv); err != nil {
			t.Errorf("%+v: %v", inv, err)
		}
	}
}

func TestEnqueue_refusesBadInputOfEveryKind(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for field, bad := range map[string]outbox.Draft{
		"recipient":       {Recipient: "nobody"},
		"template":        {Template: "../etc/passwd"},
		"channel":         {Channel: "S M S"},
		"locale":          {Locale: "x"},
		"data":            {Data: map[string]any{"x": strings.Repeat("x", 70000)}},
		"send_after":      {SendAfter: time.Now().AddDate(2, 0, 0)},
		"expires_in":      {ExpiresIn: time.Duration(1<<63 - 1)},
		"priority":        {Priority: 5},
		"idempotency_key": {IdempotencyKey: strings.Repeat("x", 256)},
		"tenant":          {Tenant: strings.Repeat("x", 256)},
	} {
		bad.Recipient, bad.Template = cmp.Or(bad.Recipient, "ada@example.com"), cmp.Or(bad.Template, "verify")
		_, err := outbox.Enqueue(t.Context(), pool, bad)
		requireProblem(t, err, field)
	}
}

func TestInviteMany_oneBadItemRefusesTheBatchAndNamesEachProblem(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	_, err := outbox.InviteMany(t.Context(), pool, []outbox.Invitation{
		{GroupID: "g", Email: "a@example.com"}, {GroupID: "g", Email: "nobody", Priority: 9}, {Email: "b@example.com"},
	})
	input, ok := errors.AsType[*outbox.InputError](err)
	if !ok {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, p := range input.Problems {
		got[fmt.Sprint(p.Item, p.Field)] = true
	}
	if want := map[string]bool{"1email": true, "1priority": true, "2group_id": true}; !maps.Equal(got, want) {
		t.Errorf("problems %+v", input.Problems)
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.invitation`); n != 0 {
		t.Errorf("%d rows were written", n)
	}
	if _, err := outbox.InviteMany(t.Context(), pool, make([]outbox.Invitation, 1001)); err == nil || !strings.Contains(err.Error(), "1,000") {
		t.Errorf("1,001 items: %v", err)
	}
	_, err = outbox.InviteMany(t.Context(), pool, []outbox.Invitation{{Tenant: "a"}, {Tenant: "b"}})
	if _, ok := errors.AsType[*outbox.InputError](err); !ok {
		t.Errorf("two tenants: %v", err)
	}
}

// What other languages send, straight to the functions.
func TestSQL_refusesWithSQLStateAndHint(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for call, message := range map[string]string{
		`SELECT mailcrane.invite_many('{}')`:  "is not a JSON array",
		`SELECT mailcrane.invite_many(NULL)`:  "is not a JSON array",
		`SELECT mailcrane.invite_many('[1]')`: "not a JSON object",
		`SELECT mailcrane.invite_many('[{"group_id": "g", "email": "a@example.com", "grup_name": "x"}]')`:         "grup_name is not a field",
		`SELECT mailcrane.invite_many('[{"group_id": "g", "email": {"a": 1}}]')`:                                  "email",
		`SELECT mailcrane.invite_many('[{"group_id": "g", "email": "a@example.com", "send_after": "soon"}]')`:     "send_after is not a time",
		`SELECT mailcrane.invite_many('[{"group_id": "g", "email": "a@example.com", "send_after": "infinity"}]')`: "send_after is more than a year ahead",
		`SELECT mailcrane.invite_many('[{"group_id": "g", "email": "a@example.com", "expires_in": "never"}]')`:    "expires_in is not a duration",
		`SELECT mailcrane.invite_many('[{"group_id": "g", "email": "a@example.com", "data": []}]')`:               "data is not a JSON object",
		`SELECT mailcrane.invite(group_id => NULL, email => NULL)`:                                                "group_id is missing (and 1 more)",
		`SELECT mailcrane.enqueue(NULL, NULL)`:                                                                    "recipient is missing (and 1 more)",
		`SELECT mailcrane.enqueue('ada@example.com', 'Not A Name')`:                                               "template",
		`SELECT mailcrane.enqueue('ada@example.com', 'invitation')`:                                               "mailcrane.invite only",
		`SELECT mailcrane.enqueue('nobody', 'verify')`:                                                            "recipient is not an address",
		`SELECT mailcrane.enqueue('#general', 'verify', channel => 'S L A C K')`:                                  "channel",
	} {
		_, err := pool.Exec(context.Background(), call)
		pgErr, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || pgErr.Code != "22023" || pgErr.Hint == "" || !strings.Contains(pgErr.Message, message) {
			t.Errorf("%s: got %v, want %q", call, err, message)
		}
	}
	if n := value[int](t, pool, `SELECT (SELECT count(*) FROM mailcrane.invitation) + (SELECT count(*) FROM mailcrane.message)`); n != 0 {
		t.Errorf("%d rows were written", n)
	}
	exec(t, pool, `SELECT mailcrane.invite_many('[{"group_id": 42, "email": "a@example.com", "expires_in": "P3D", "data": null, "link": null}]')`)
	exec(t, pool, `SELECT mailcrane.enqueue('#general', 'verify', channel => 'slack')`)
}
