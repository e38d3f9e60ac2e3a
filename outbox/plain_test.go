package outbox_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// oddValues are worth a look in any field of an invitation.
func oddValues() []any {
	texts := []string{
		"", " ", "a", "0", "5", "-1", "en", "de-AT", "de_at", "e", "english please", "7 days", "P7D", "2 years", "0 seconds", "now", "infinity",
		"2030-01-31T09:00:00Z", "2031-13-01", "a@b.c", "A@B.C", "ada@example.com", " ada@example.com ", "ada@EXAMPLE.com", "ada@example",
		"ada@example.com.", "ada@.com", "ada@-a.com", "ada@a-.com", "ada@a..com", "ada@1.2.3.4", "ada@example.c0m", "ada@exämple.com", "ädа@example.com",
		"a.@example.com", ".a@example.com", "a..b@example.com", "a@b@c.de", "@example.com", "ada@", "a b@example.com", "\"a\"@example.com", "a\u200bb@example.com",
		"http://example.com", "https://example.com/a?b#c", "https://user@example.com", "https://", "ftp://example.com", "https://exa mple.com",
		"www.example.com", "WWW.example.com", "awww.x", "Ada & Charles <x>", "Grüße", "é", "名前", "a\tb", "a\nb", "a\u0085b", "\u202eevil", "a\ufeffb",
		strings.Repeat("x", 100), strings.Repeat("x", 101), strings.Repeat("ü", 100), strings.Repeat("ü", 101), strings.Repeat("x", 255), strings.Repeat("x", 256),
		strings.Repeat("a", 64) + "@example.com", strings.Repeat("a", 65) + "@example.com",
		"a@" + strings.Repeat("b", 63) + ".com", "a@" + strings.Repeat("b", 64) + ".com", "a@" + strings.Repeat("b.", 130) + "com",
		"https://example.com/" + strings.Repeat("p", 2028), "https://example.com/" + strings.Repeat("p", 2029),
	}
	values := []any{nil, true, false, 1, 4, 5, 1.5, []any{}, []any{"a"}, map[string]any{}, map[string]any{"a": "b"}, map[string]any{"a": strings.Repeat("x", 70_000)}}
	for _, text := range texts {
		values = append(values, text)
	}
	return values
}

// judge says whether a call is taken, and whether it is by the rules.
func judge(t *testing.T, pool *pgxpool.Pool, invitations, tenant any) (taken, fine bool) {
	t.Helper()
	document, err := json.Marshal(invitations)
	if err != nil {
		t.Fatal(err)
	}
	verdict := func(function string) bool {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(t.Context())
		_, err = tx.Exec(t.Context(), `SELECT mailcrane.`+function+`($1::text::jsonb, $2::text)`, string(document), tenant)
		refused, is := errors.AsType[*pgconn.PgError](err)
		if err != nil && (!is || refused.Code != pgerrcode.InvalidParameterValue) {
			t.Errorf("%s of %.200s, %v: %v", function, document, tenant, err)
		}
		return err == nil
	}
	return verdict("invite_many"), verdict("check_invitations")
}

func TestInvite_takesAtAGlanceNothingThatTheRulesRefuse(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	tried, taken := 0, 0
	try := func(invitations, tenant any) {
		isTaken, fine := judge(t, pool, invitations, tenant)
		if isTaken != fine {
			t.Errorf("%.200v of %v: taken %t, by the rules %t", invitations, tenant, isTaken, fine)
		}
		tried++
		if isTaken {
			taken++
		}
	}
	fields := []string{"group_id", "group_name", "email", "inviter_id", "inviter_name", "link", "locale", "data",
		"send_after", "expires_in", "priority", "idempotency_key", "no_field"}
	for _, odd := range oddValues() {
		for _, field := range fields {
			item := map[string]any{"group_id": "g", "email": "ada@example.com"}
			item[field] = odd
			try([]any{map[string]any{"group_id": "g", "email": "first@example.com"}, item}, "default")
		}
		try([]any{odd}, "default")
		try(odd, "default")
		if tenant, ok := odd.(string); ok {
			try([]any{map[string]any{"group_id": "g", "email": "ada@example.com"}}, tenant)
		}
	}
	try([]any{map[string]any{"group_id": "g", "email": "ada@example.com"}}, nil)
	try([]any{}, "default")
	if tried < 1000 || taken < tried/10 || taken > tried*9/10 {
		t.Errorf("%d tried, %d of them taken", tried, taken)
	}
}

func TestInvite_ordinaryOnesPassAtAGlance(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for _, item := range []string{
		`{"group_id": "42", "email": "ada@example.com"}`,
		`{"group_id": 42, "email": " Ada.Lovelace+x@Sub-Domain.Example.co.uk ", "priority": 1, "locale": "de-AT"}`,
		`{"group_id": "g", "email": "a@b.org", "group_name": "Verein für Höhlenkunde & Söhne", "inviter_name": "Željko <3", "data": {"a": [1, true]}}`,
		`{"group_id": "g", "email": "a@b.org", "link": "https://app.example.com/join?a=1&b=2#c", "expires_in": "2 hours", "send_after": "2026-12-01T00:00:00Z", "idempotency_key": "k-1"}`,
	} {
		plain := value[bool](t, pool, `
			SELECT mailcrane.is_plain(i.item, i.group_id, i.group_name, i.email, i.inviter_id, i.inviter_name, i.link, i.locale, i.data,
			                          i.send_after, i.expires_in, i.priority, i.idempotency_key)
			FROM mailcrane.invitation_items(jsonb_build_array($1::text::jsonb)) AS i`, item)
		if !plain {
			t.Errorf("%s is not plain", item)
		}
	}
}

// A plan that was made while the tables were empty must not read them from end to
// end when they are not.
func TestInvite_findsByIndexWhateverTheStatisticsSay(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for _, table := range []string{"invitation", "message", "suppression", "river_job"} {
		exec(t, pool, `ALTER TABLE mailcrane.`+table+` SET (autovacuum_enabled = off)`)
	}
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	calls := func(email string) (read int) {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(t.Context())
		for range 2 { // the second one meets the first
			if _, err := outbox.Invite(t.Context(), tx, outbox.Invitation{GroupID: "g", Email: email}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := outbox.Enqueue(t.Context(), tx, outbox.Draft{Recipient: email, Template: "verify", IdempotencyKey: email}); err != nil {
			t.Fatal(err)
		}
		row := tx.QueryRow(t.Context(), `SELECT coalesce(sum(seq_tup_read), 0)::integer FROM pg_stat_xact_user_tables WHERE schemaname = 'mailcrane'`)
		if err := row.Scan(&read); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		return read
	}
	for range 10 {
		calls("ada@example.com")
	}
	const rows = 2000
	exec(t, pool, `
		INSERT INTO mailcrane.suppression (address, reason) SELECT 's' || i || '@example.com', 'x' FROM generate_series(1, $1) AS i`, rows)
	exec(t, pool, `
		SELECT mailcrane.invite_many(jsonb_agg(jsonb_build_object('group_id', 'h', 'email', 'u' || i || '@example.com')))
		FROM generate_series(1, $1) AS i GROUP BY i % 2`, rows)
	if read := calls("new@example.com"); read > rows/2 {
		t.Errorf("%d rows were read by going through whole tables", read)
	}
}
