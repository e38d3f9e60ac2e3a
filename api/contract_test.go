package api_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// malformed gives bodies that a careless or hostile client might send: good
// ones with bytes changed, cut, doubled and inserted, and fields with values of
// every type.
func malformed(random *rand.Rand, n int) []string {
	good := []string{
		ada,
		`{"email":"ada@example.com","group_name":"Club","inviter_id":"7","inviter_name":"Charles","link":"https://example.com/x","locale":"de-AT",` +
			`"data":{"a":[1,2.5,null,true,{"b":"c"}]},"send_after":"2026-01-31T09:00:00Z","expires_in":3600,"priority":1}`,
	}
	pieces := []string{
		"\x00", "\xff", `\u0000`, `\ud800`, `"`, "{", "}", "[", "]", ",", ":", "null", "true", "-", "1e999", "-0", "1e-400", "\u202e", "é", "💌", " ", "\n", "\\",
		strings.Repeat("[", 70), strings.Repeat(`{"a":`, 2000), strings.Repeat("9", 400), "'; DROP TABLE invitation; --", "%s%n", "{{.}}", "<script>",
	}
	values := []string{
		"null", "true", "false", "0", "-1", "1.5", "1e3", "1e300", "9223372036854775808", `""`, `" "`, `"x"`, `"\u0000"`, `"\ud83d"`, `"infinity"`, `"-infinity"`,
		`"now"`, `"tomorrow"`, `"7 days"`, `"0001-01-01T00:00:00Z"`, `"9999-12-31T23:59:59Z"`, `"2026-02-30T00:00:00Z"`, `"2026-01-31T24:00:00+25:00"`,
		"[]", "{}", `[{"a":1}]`, `{"a":{"b":[]}}`, `"` + strings.Repeat("x", 70) + `@example.com"`, `"a@` + strings.Repeat("x.", 200) + `com"`,
		`"` + strings.Repeat("ü", 300) + `"`, `"http://"`, `"https://[::1"`, `"x@y.z\r\nBcc: q@example.com"`,
	}
	names := []string{
		"email", "group_name", "inviter_id", "inviter_name", "link", "locale", "data", "send_after", "expires_in", "priority",
		"tenant", "idempotency_key", "group_id", "Email", "", "$schema", "__proto__",
	}
	var bodies []string
	for _, name := range names {
		for _, value := range values {
			bodies = append(bodies, `{"email":"ada@example.com","`+name+`":`+value+`}`, `{"`+name+`":`+value+`}`)
		}
	}
	for range n {
		body := []byte(good[random.IntN(len(good))])
		for range 1 + random.IntN(4) {
			from := random.IntN(len(body) + 1)
			to := min(from+random.IntN(8), len(body))
			switch random.IntN(4) {
			case 0:
				body = body[:from]
			case 1:
				body = append(bytes.Clone(body[:from]), body[to:]...)
			case 2:
				body = append(bytes.Clone(body[:to]), body[from:]...)
			default:
				body = append(append(bytes.Clone(body[:from]), pieces[random.IntN(len(pieces))]...), body[from:]...)
			}
		}
		bodies = append(bodies, string(body))
	}
	return bodies
}

func TestContract_noBodyIsOurFault(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	d := s.description()
	seed := rand.Uint64()
	seen := map[int]int{}
	for i, body := range malformed(rand.New(rand.NewPCG(seed, 0)), 600) {
		a := s.invite(body)
		seen[a.StatusCode]++
		if a.StatusCode >= http.StatusInternalServerError {
			t.Errorf("seed %d, body %d gave %d: %.300q: %s", seed, i, a.StatusCode, body, a.body)
		}
		if a.StatusCode == http.StatusAccepted {
			look := s.get(a.Header.Get("Location")).want(http.StatusOK)
			d.declared(look, "/v1/invitations/{id}")
		}
		d.declared(a, "/v1/groups/{group_id}/invitations")
	}
	t.Logf("seed %d: %v", seed, seen)
	for _, status := range []int{http.StatusAccepted, http.StatusBadRequest, http.StatusUnprocessableEntity} {
		if seen[status] == 0 {
			t.Errorf("no answer was %d", status)
		}
	}
}

func TestContract_allAnswersAreDescribed(t *testing.T) {
	t.Parallel()
	const invitations = "/v1/groups/{group_id}/invitations"
	s := start(t, nil)
	s.relay()
	d := s.description()
	created := s.invite(ada)
	d.declared(created, invitations)
	s.finished(created.Header.Get("Location"))
	bounced := s.invite(`{"email":"bounce@example.com"}`)
	s.finished(bounced.Header.Get("Location"))
	id, _ := bounced.document()["message_id"].(string)

	for path, answers := range map[string][]*answer{
		invitations: {
			s.invite(ada), s.invite("{}"), s.invite(""), s.invite(ada, "Content-Type", "text/plain"), s.invite(strings.Repeat(" ", 1<<17)),
			s.invite(ada, "Host", "x"), s.invite(ada, "Origin", "https://x"), s.invite(ada, "Accept", "text/html"), s.invite("{}", "Accept", "json, */*;q=0"),
		},
		"/v1/invitations/{id}": {s.get(created.Header.Get("Location")), s.get("/v1/invitations/x"), s.get("/v1/invitations/x", "Host", "x"), s.get("/v1/invitations/x?y=z")},
		"/v1/messages/{id}":    {s.get("/v1/messages/" + id), s.get("/v1/messages/x"), s.get("/v1/messages/" + strings.Repeat("x", 65))},
		"/livez":               {s.get("/livez")},
		"/readyz":              {s.get("/readyz")},
	} {
		for _, a := range answers {
			d.declared(a, path)
		}
	}
	down := start(t, withoutDatabase(t))
	d.declared(down.get("/readyz"), "/readyz")
	d.declared(down.invite(ada), invitations)
	d.declared(down.get("/v1/messages/"+id), "/v1/messages/{id}")

	guarded := start(t, withToken)
	d.declared(guarded.invite(ada), invitations)
	d.declared(guarded.get("/v1/messages/x"), "/v1/messages/{id}")
}

var pathParameter = regexp.MustCompile(`\{[a-z_]+\}`)

func TestContract_contentionIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	// A sequence is not rolled back, so it counts the tries.
	_, err := s.pool.Exec(t.Context(), `
		CREATE SEQUENCE tries;
		CREATE FUNCTION contend() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF nextval('public.tries') < 3 THEN
				RAISE EXCEPTION 'contended' USING ERRCODE = 'serialization_failure';
			END IF;
			RETURN NEW;
		END $$;
		CREATE TRIGGER contend BEFORE INSERT ON mailcrane.invitation FOR EACH ROW EXECUTE FUNCTION contend()`)
	if err != nil {
		t.Fatal(err)
	}
	s.invite(ada).want(http.StatusAccepted)
	if _, err := s.pool.Exec(t.Context(), `ALTER SEQUENCE tries INCREMENT BY -1 MINVALUE -1000 START WITH 0 RESTART`); err != nil {
		t.Fatal(err)
	}
	a := s.invite(`{"email":"grace@example.com"}`)
	a.problem(http.StatusServiceUnavailable, "database-unavailable")
	if n := count(t, s.pool, `SELECT -last_value FROM tries`); n != 2 {
		t.Errorf("gave up after %d tries", n+1)
	}
}

func TestJSON_isWrittenPlainly(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	a := s.invite(`{"email":"ada@example.com","group_name":"R&D <3"}`).want(http.StatusAccepted)
	look := s.get(a.Header.Get("Location")).want(http.StatusOK)
	if !strings.Contains(string(look.body), `"R&D <3"`) || !json.Valid(look.body) {
		t.Errorf("invitation is %s", look.body)
	}
}
