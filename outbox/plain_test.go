package outbox_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// oddTexts are texts put together from pieces that matter to one rule or
// another, and the characters of some blocks in several places.
func oddTexts() []string {
	pieces := []string{
		"a", "w", "W", "ww", "www.", "WwW.", "é", "ſ", "ⓦ", " ", "\t", "\n", "\u200b", "\u202e", "\ufeff", "\u00a0", "\U0010ffff",
		".", "..", ":", "/", "//", "://", "@", "-", "--", "_", "+", "?", "#", "%", "{", "[", "'", `"`, `\`, "0", "1", "7", "99",
		"example", "com", "evil.com", "．", "。", "\u00ad", "\u3000", "B.Sc", "Example", "COM", "xn--a", "ä", "a@b.example", "ada@example.com", "@example.com", "https://", "HTTP://", "x.example",
		"en", "de", "AT", "deu", "zh-Hans", "2026-02-28", "2026-02-29", "2024-02-29", "2026-04-31", "2099-12-31", "T", "Z", "23:59:59", "24:00:00", "12:00:60",
		".123456789", "+14:00", "-15:59", "+00:00", " days", " day", " hours", " seconds", ".000001 seconds", "P7D", "infinity", "true", "null",
		strings.Repeat("x", 60), strings.Repeat("é", 60), strings.Repeat("a.", 40), strings.Repeat("1", 80),
	}
	random := rand.New(rand.NewPCG(1, 2)) // the same texts every time
	var texts []string
	for _, piece := range pieces {
		texts = append(texts, piece, piece+"@example.com", "a@"+piece+".example", "a@b."+piece, "https://"+piece, "https://x.example/"+piece,
			"2026-01-31T12:00:00"+piece, piece+"T12:00:00Z", "2026-01-31T"+piece+"Z", "7"+piece, "7 days "+piece, "5 hours 1"+piece)
	}
	for r := rune(1); r < 0xff00; r++ {
		if block := r &^ 0x7f; block > 0x80 && block != 0x600 && block != 0x2000 && block != 0x3000 && block != 0xfe00 && block != 0xfe80 {
			continue
		}
		texts = append(texts, string(r), "a"+string(r)+"b", "a"+string(r)+"@example.com", "a@b"+string(r)+"c.example", "https://x.example/"+string(r))
	}
	for range 10000 {
		var text strings.Builder
		for range 1 + random.IntN(7) {
			text.WriteString(pieces[random.IntN(len(pieces))])
		}
		texts = append(texts, text.String())
	}
	return texts
}

// What a quick test lets pass, the rules must let pass too; and the tests must be
// worth having.
func TestPlain_isStricterThanTheRules(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for plain, rule := range map[string]string{
		`mailcrane.is_plain(v, 255)`:           `mailcrane.text_problem(v, 255) IS NOT NULL`,
		`mailcrane.is_plain(v, 100)`:           `mailcrane.text_problem(v, 100) IS NOT NULL`,
		`mailcrane.is_plain_name(v)`:           `mailcrane.name_problem(v) IS NOT NULL`,
		`mailcrane.is_plain_address(v)`:        `mailcrane.address_problem(v) IS NOT NULL OR mailcrane.normalize_address(v) <> v`,
		`mailcrane.is_plain_link(v)`:           `mailcrane.link_problem(v) IS NOT NULL`,
		`mailcrane.is_plain_locale(v)`:         `mailcrane.locale_problem(v) IS NOT NULL OR mailcrane.locale_problem(replace(v, '_', '-')) IS NOT NULL`,
		`mailcrane.is_plain_time(v)`:           `mailcrane.try_timestamptz(v) IS NULL`,
		`mailcrane.is_plain_duration(v)`:       `mailcrane.try_interval(v) IS NULL`,
		`mailcrane.is_plain_template(v)`:       `mailcrane.message_problems('a@b.example', v, '{}', 'email', 'en', NULL, NULL, NULL, NULL, 't') IS NOT NULL`,
		`mailcrane.is_plain_data(to_jsonb(v))`: `mailcrane.data_problem(to_jsonb(v)) IS NOT NULL`,
	} {
		rows, err := pool.Query(t.Context(), `SELECT v, `+rule+` FROM unnest($1::text[]) AS v WHERE `+plain, oddTexts())
		if err != nil {
			t.Fatal(err)
		}
		passed := 0
		for rows.Next() {
			var text string
			var wrong bool
			if err := rows.Scan(&text, &wrong); err != nil {
				t.Fatal(err)
			}
			passed++
			if wrong {
				t.Errorf("%s lets %q pass, the rule does not", plain, text)
			}
		}
		if rows.Err() != nil || passed == 0 && !strings.Contains(plain, "to_jsonb") {
			t.Errorf("%s lets %d pass (%v)", plain, passed, rows.Err())
		}
	}
}

// What the quick test of names lets pass is not looked at in the form in which it may
// be a link.
func TestPlain_hasNoCharacterThatStandsForOneOfALink(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	const characters = `FROM (SELECT chr(n) AS c FROM generate_series(161, 1114111) AS n WHERE n NOT BETWEEN 55296 AND 57343) AS s WHERE mailcrane.as_in_links(c) ~ '[.:/@]'`
	if n := value[int](t, pool, `SELECT count(*) `+characters); n < 40 {
		t.Errorf("only %d characters stand for one of a link", n)
	}
	if got := value[string](t, pool, `SELECT coalesce(string_agg(c, ' '), '') `+characters+` AND mailcrane.is_plain_name('a' || c || 'b')`); got != "" {
		t.Errorf("%q pass", got)
	}
}

// The whole of an item: what is refused, and how, is what the rules say.
func TestInviteMany_refusesWhatTheRulesRefuse(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	values := []string{
		`"x"`, `""`, `" "`, `"true"`, `true`, `false`, `null`, `7`, `-1`, `2.0`, `1e2`, `[]`, `["x"]`, `{}`, `{"a": 1}`, `"a\nb"`, `"a:b"`, `"evil.com"`, `"www.x"`,
		`"ada@example.com"`, `" Ada@Example.COM "`, `"a@b"`, `"https://x.example"`, `"de_AT"`, `"2026-12-01T00:00:00Z"`, `"2999-01-01T00:00:00Z"`, `"2049-01-01T00:00:00Z"`,
		`"infinity"`, `"tomorrow"`, `"0 days"`, `"1 hour"`, `"9999 days"`, `"366 days 1 seconds"`, `"8784 hours 0.000001 seconds"`, `"P3D"`, `"3"`, `"03"`, `5`,
	}
	fields := []string{
		"group_id", "group_name", "email", "inviter_id", "inviter_name", "link", "locale", "data", "send_after", "expires_in", "priority", "idempotency_key", "other",
	}
	items := []string{`[]`, `{}`, `[{}]`, `[[]]`, `[1]`, `[{"group_id": "g", "email": "a@example.com"}, null]`, `"x"`, `null`}
	for _, field := range fields {
		for _, value := range values {
			if field == "group_id" || field == "email" {
				items = append(items, fmt.Sprintf(`[{%q: %s}]`, field, value))
			}
			ordinary := `{"group_id": "g", "email": "b@example.com"}`
			items = append(items, fmt.Sprintf(`[%s, {"group_id": "g", "email": "a@example.com", %q: %s}]`, ordinary, field, value))
		}
	}
	refused := 0
	for _, item := range items {
		_, rules := pool.Exec(t.Context(), `SELECT mailcrane.check_invitations($1::text::jsonb, 'default')`, item)
		_, call := pool.Exec(t.Context(), `SELECT mailcrane.invite_many($1::text::jsonb)`, item)
		if got, want := refusal(call), refusal(rules); got != want {
			t.Errorf("%s: got %s, want %s", item, got, want)
		}
		if rules != nil {
			refused++
		}
	}
	if refused == 0 || refused == len(items) {
		t.Errorf("%d of %d refused", refused, len(items))
	}
}

// refusal is everything that an error of PostgreSQL says to a program.
func refusal(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.Join([]string{pgErr.Code, pgErr.Message, pgErr.Detail, pgErr.Hint}, "|")
	}
	return fmt.Sprint(err)
}
