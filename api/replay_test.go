package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/api"
	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// Whatever writes gives the first answer again, and writes once.
func TestReplay_givesTheFirstAnswer(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	hop := s.relay()
	m := s.mail(hop, ada)
	held := s.invite(`{"email":"held@example.com","send_after":"` + time.Now().Add(time.Hour).Format(time.RFC3339) + `"}`).want(http.StatusAccepted).document()
	if _, err := s.pool.Exec(t.Context(), `UPDATE mailcrane.message SET status = 'held', reason = 'test' WHERE id = $1::text::uuid`, held["message_id"]); err != nil {
		t.Fatal(err)
	}
	for i, request := range []struct{ path, body string }{
		{"/v1/groups/42/invitations", `{"email":"grace@example.com"}`},
		{"/v1/messages", `{"recipient":"ada@example.com","template":"verify"}`},
		{"/v1/suppressions", `{"address":"bob@example.com"}`},
		{"/v1/messages/" + held["message_id"].(string) + "/release", ""},
		{"/v1/messages/" + held["message_id"].(string) + "/cancel", ""},
		{"/v1/invitations/" + m.id + "/change-address", `{"email":"ada@example.org"}`},
		{"/v1/invitations/" + held["id"].(string) + "/revoke", ""},
		{"/v1/invitations/" + m.id + "/accept", ""},
		{"/v1/groups/42/invitations/batch", `{"invitations":[{"email":"alan@example.com"},{"email":"nobody"},{"email":"alan@example.com"}]}`},
		{"/v1/groups/43/invitations/batch?atomic=true", `{"invitations":[{"email":"alan@example.com"}]}`},
		{"/v1/suppressions/import", "address\neve@example.com\n"},
		{"/v1/bounces/postmark", `{"RecordType":"Bounce","Type":"HardBounce","ID":1,"Email":"mallory@example.com","BouncedAt":"2026-01-31T09:00:00Z"}`},
	} {
		header := []string{"Idempotency-Key", fmt.Sprintf("key %d", i)}
		if strings.HasSuffix(request.path, "/import") {
			header = append(header, "Content-Type", "-", "Content-Type", "text/csv")
		}
		first := s.request(http.MethodPost, request.path, request.body, header...)
		if first.StatusCode >= 300 || first.Header.Get("Idempotency-Replayed") != "" {
			t.Errorf("%s: %d, %s", request.path, first.StatusCode, first.body)
		}
		if strings.HasSuffix(request.path, "/release") && first.document()["status"] != "queued" {
			t.Errorf("the answer is from before the release: %s", first.body)
		}
		rows := s.value(allRows)
		again := s.request(http.MethodPost, request.path, strings.ReplaceAll(request.body, `":`, "\" :\n"), header...)
		if again.StatusCode != first.StatusCode || string(again.body) != string(first.body) || again.Header.Get("Location") != first.Header.Get("Location") {
			t.Errorf("%s:\n%d, %s\n%d, %s", request.path, first.StatusCode, first.body, again.StatusCode, again.body)
		}
		if again.Header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("%s does not say that the answer is an old one", request.path)
		}
		if s.value(allRows) != rows {
			t.Errorf("%s was carried out twice", request.path)
		}
	}
}

const allRows = `
	SELECT jsonb_build_array(
		(SELECT jsonb_agg(to_jsonb(i) ORDER BY i.id) FROM mailcrane.invitation AS i),
		(SELECT jsonb_agg(m.id ORDER BY m.id) FROM mailcrane.message AS m),
		(SELECT jsonb_agg(b.id ORDER BY b.id) FROM mailcrane.bounce AS b),
		(SELECT jsonb_agg(to_jsonb(s) ORDER BY s.address) FROM mailcrane.suppression AS s))::text`

func TestReplay_refusesTheKeyForAnotherRequest(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.invite(ada, "Idempotency-Key", "k").want(http.StatusAccepted)
	for path, body := range map[string]string{
		"/v1/groups/42/invitations":     `{"email":"eve@example.com"}`,
		"/v1/groups/43/invitations":     ada,
		"/v1/suppressions":              `{"address":"eve@example.com"}`,
		"/v1/invitations/accept":        tokenBody(strings.Repeat("A", 43)),
		"/v1/groups/42%20/invitations":  ada,
		"/v1/messages":                  `{"recipient":"eve@example.com","template":"verify"}`,
		"/v1/messages/x/cancel":         "",
		"/v1/invitations/x/decline":     "",
		"/v1/groups/42/invitations?x=1": ada,
	} {
		a := s.request(http.MethodPost, path, body, "Idempotency-Key", "k")
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
	}
	if n := count(t, s.pool, `SELECT (SELECT count(*) FROM mailcrane.invitation) + (SELECT count(*) FROM mailcrane.message) + (SELECT count(*) FROM mailcrane.suppression)`); n != 2 {
		t.Errorf("%d rows instead of an invitation and its message", n)
	}
	// Another tenant has keys of its own.
	a := s.invite(ada, append(bearer(s.key(outbox.NewAPIKey{Tenant: "b"})), "Idempotency-Key", "k")...).want(http.StatusAccepted)
	if a.Header.Get("Idempotency-Replayed") != "" {
		t.Error("tenant b has got the answer of another tenant")
	}
}

func TestReplay_keepsNothingOfWhatIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.invite(`{"email":"nobody"}`, "Idempotency-Key", "k").want(http.StatusUnprocessableEntity)
	s.invite(`{"email":`, "Idempotency-Key", "k").want(http.StatusBadRequest)
	if n := count(t, s.pool, `SELECT count(*) FROM mailcrane.request`); n != 0 {
		t.Error("a request that was refused holds its key")
	}
	s.invite(ada, "Idempotency-Key", "k").want(http.StatusAccepted)
	s.request(http.MethodPost, "/v1/groups/42/invitations/batch", `{"invitations":[{"email":"nobody"}]}`, "Idempotency-Key", "batch").want(http.StatusUnprocessableEntity)
	s.request(http.MethodPost, "/v1/groups/42/invitations/batch", `{"invitations":[{"email":"eve@example.com"}]}`, "Idempotency-Key", "batch").want(http.StatusAccepted)
	// Looking is no request to be remembered.
	s.request(http.MethodPost, "/v1/invitations/verify", tokenBody(strings.Repeat("A", 43)), "Idempotency-Key", "k").problem(http.StatusNotFound, "invalid-token")
}

// An Idempotency-Key is obeyed or refused, and where it is neither the description says
// so: nobody must rely on one in vain.
func TestReplay_everyOperationSaysWhatItMakesOfAKey(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *api.Config) { c.Secret = []byte("0123456789abcdef0123456789abcdef") })
	d := s.description()
	for path, operations := range d.Paths {
		for method, op := range operations {
			if method == "get" {
				continue
			}
			takes := slices.ContainsFunc(op.Parameters, func(p parameter) bool { return p.Name == "Idempotency-Key" && p.In == "header" })
			ignores := strings.Contains(op.Description, "An Idempotency-Key is not looked at")
			refuses := strings.Contains(op.Description, "An Idempotency-Key is refused (422)")
			if fmt.Sprint(takes, ignores, refuses) != "true false false" && fmt.Sprint(takes, ignores, refuses) != "false true false" && fmt.Sprint(takes, ignores, refuses) != "false false true" {
				t.Errorf("%s %s: takes %t, ignores %t, refuses %t", method, path, takes, ignores, refuses)
			}
			at := pathParameter.ReplaceAllString(path, "01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21")
			header := []string{}
			if _, csv := op.RequestBody.Content["text/csv"]; csv {
				header = []string{"Content-Type", "-", "Content-Type", "text/csv"}
			}
			for name, key := range map[string][]string{
				"empty": {"Idempotency-Key", ""}, "two": {"Idempotency-Key", "a", "Idempotency-Key", "b"}, "long": {"Idempotency-Key", strings.Repeat("k", 256)},
				"good": {"Idempotency-Key", "k"},
			} {
				a := s.request(strings.ToUpper(method), at, "{}", append(key, header...)...)
				d.declared(a, path)
				said := a.StatusCode == http.StatusUnprocessableEntity && strings.Contains(string(a.body), `"header.Idempotency-Key"`)
				if want := refuses || takes && name != "good"; said != want {
					t.Errorf("%s %s with a key that is %s: %d %s", method, path, name, a.StatusCode, a.body)
				}
			}
		}
	}
	if n := count(t, s.pool, `SELECT (SELECT count(*) FROM mailcrane.api_key) + (SELECT count(*) FROM mailcrane.webhook)`); n != 0 {
		t.Error("a secret was made that nobody has got")
	}
}

func TestReplay_twinsWaitForEachOther(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	s := start(t, func(c *api.Config) { c.Pool = outboxtest.Connections(t, pool, 50) })
	answers := make([]*answer, 50)
	outboxtest.AtOnce(t, pool, `LOCK TABLE mailcrane.request IN EXCLUSIVE MODE`, len(answers), func(i int) {
		answers[i] = s.invite(ada, "Idempotency-Key", "k")
	})
	first := 0
	for _, a := range answers {
		a.want(http.StatusAccepted)
		if string(a.body) != string(answers[0].body) {
			t.Errorf("%s instead of %s", a.body, answers[0].body)
		}
		if a.Header.Get("Idempotency-Replayed") == "" {
			first++
		}
	}
	if first != 1 {
		t.Errorf("%d of the twins were carried out", first)
	}
}

func TestReplay_isForgottenAfterADay(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for _, key := range []string{"young", "old"} {
		s.invite(`{"email":"`+key+`@example.com"}`, "Idempotency-Key", key).want(http.StatusAccepted)
	}
	if _, err := s.pool.Exec(t.Context(), `UPDATE mailcrane.request SET created_at = now() - CASE key WHEN 'old' THEN interval '26 hours' ELSE interval '24 hours' END`); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s.pool, `SELECT mailcrane.forget_requests()`); n != 1 {
		t.Errorf("forgot %d requests", n)
	}
	if left := s.value(`SELECT string_agg(key, ',') FROM mailcrane.request`); left != "young" {
		t.Errorf("kept %s", left)
	}
}
