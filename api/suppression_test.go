package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/api"
	"github.com/mailcrane/mailcrane/outbox"
)

func TestSuppressions_areAddedListedAndRemoved(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	const path = "/v1/suppressions"
	for _, want := range []string{`{"created":1,"existing":0}`, `{"created":0,"existing":1}`} {
		a := s.request(http.MethodPost, path, `{"address":"Ada@example.com","reason":"asked"}`).want(http.StatusOK)
		s.description().declared(a, path)
		if got := strings.TrimSpace(string(a.body)); got != want {
			t.Errorf("%s instead of %s", got, want)
		}
	}
	if d := s.invite(ada).want(http.StatusAccepted).document(); d["result"] != "created" {
		t.Errorf("%v", d)
	}
	a := s.get(path).want(http.StatusOK)
	s.description().declared(a, path)
	if row := first(t, a.document(), "suppressions"); row["address"] != "ada@example.com" || row["reason"] != "asked" || row["source"] != "operator" {
		t.Errorf("%v", row)
	}
	for _, want := range []int{http.StatusNoContent, http.StatusNotFound} {
		a := s.request(http.MethodDelete, path+"/ADA@example.com", "").want(want)
		s.description().declared(a, path+"/{address}")
	}
	for _, address := range []string{"%00", "%ff", "nobody", strings.Repeat("x", 255)} {
		a := s.request(http.MethodDelete, path+"/"+address, "")
		s.description().declared(a, path+"/{address}")
		s.silent(a)
		if a.StatusCode != http.StatusNotFound && a.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("%q: %d", address, a.StatusCode)
		}
	}
	for body, location := range map[string]string{
		`{"address":"nobody"}`: "body.address", `{}`: "body", `{"address":"ada@example.com","reason":"a\u0000"}`: "body.reason", `{"address":7}`: "body.address",
	} {
		a := s.request(http.MethodPost, path, body)
		s.description().declared(a, path)
		s.silent(a)
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
		a.errorAt(location)
	}
}

// Somebody who was erased may want to be written to again.
func TestSuppressions_ofTheErasedAreRemoved(t *testing.T) {
	t.Parallel()
	secret := []byte("0123456789abcdef0123456789abcdef")
	s := start(t, func(c *api.Config) { c.Secret = secret })
	if _, err := outbox.Suppress(t.Context(), s.pool, "", outbox.Suppression{Address: "ada@example.com"}); err != nil {
		t.Fatal(err)
	}
	if _, err := outbox.Erase(t.Context(), s.pool, "ada@example.com", secret); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{http.StatusNoContent, http.StatusNotFound} {
		s.request(http.MethodDelete, "/v1/suppressions/Ada@example.com", "").want(want)
	}
}

func TestSuppressions_areImported(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	const path = "/v1/suppressions/import"
	send := func(body, media string) *answer {
		a := s.request(http.MethodPost, path, body, "Content-Type", "-", "Content-Type", media)
		s.description().declared(a, path)
		s.silent(a)
		return a
	}
	list := "address,reason\n"
	for i := range 120 {
		list += fmt.Sprintf("u%03d@example.com,\"bounced, twice\"\n", i)
	}
	for _, want := range []string{`{"created":120,"existing":0}`, `{"created":0,"existing":120}`} {
		if got := strings.TrimSpace(string(send(list, "text/csv; charset=utf-8").want(http.StatusOK).body)); got != want {
			t.Errorf("%s instead of %s", got, want)
		}
	}
	var seen []string
	for after, more := "", true; more; {
		d := s.get("/v1/suppressions?limit=50&after=" + after).want(http.StatusOK).document()
		rows, _ := d["suppressions"].([]any)
		for _, row := range rows {
			seen = append(seen, fmt.Sprint(row.(map[string]any)["address"]))
		}
		after, more = d["next"].(string)
	}
	if len(seen) != 120 || seen[0] != "u000@example.com" || seen[119] != "u119@example.com" {
		t.Errorf("%q", seen)
	}

	for body, location := range map[string]string{
		"":                                      "body",
		"mail\nada@example.com\n":               "body",
		"address\n\"ada":                        "body",
		"address\nnew@example.com\nnobody\n":    "body.lines[1].address",
		"address\nnew@example.com\n\xff\n":      "body.lines[1].address",
		"address,reason\nnew@example.com,a\x00": "body.lines[0].reason",
	} {
		a := send(body, "text/csv")
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
		a.errorAt(location)
	}
	if n := count(t, s.pool, `SELECT count(*) FROM mailcrane.suppression`); n != 120 {
		t.Errorf("%d addresses", n)
	}
	for _, media := range []string{"application/json", "text/plain", "text/csv; charset=latin1", "x"} {
		send(list, media).problem(http.StatusUnsupportedMediaType, "unsupported-media-type")
	}
	send(strings.Repeat("x", 1<<20+1), "text/csv").problem(http.StatusRequestEntityTooLarge, "body-too-large")
	for _, query := range []string{"after=%00", "after=" + url.QueryEscape("="), "after=AA", "limit=0", "limit=101", "x=y"} {
		a := s.get("/v1/suppressions?" + query)
		s.description().declared(a, "/v1/suppressions")
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
	}
}

// Who may write invitations and not read them does not learn of an answer, either,
// whether an address is suppressed.
func TestSuppressions_showInNoAnswerToWhoMayOnlyWrite(t *testing.T) {
	t.Parallel()
	s := start(t, withToken)
	s.request(http.MethodPost, "/v1/suppressions", `{"address":"ada@example.com","reason":"asked us to stop"}`, operator()...)
	writer := bearer(s.key(outbox.NewAPIKey{Name: "w", Scopes: []string{"invitations:write"}}))
	both := bearer(s.key(outbox.NewAPIKey{Name: "rw", Scopes: []string{"invitations:write", "invitations:read"}}))
	for group, key := range map[string][]string{"writer": writer, "both": both} {
		for _, answer := range []string{"accept", "decline"} {
			for _, email := range []string{"ada@example.com", "grace@example.com"} {
				made := s.request(http.MethodPost, "/v1/groups/"+group+answer+"/invitations", `{"email":"`+email+`"}`, key...)
				done := s.request(http.MethodPost, made.Header.Get("Location")+"/"+answer, "", key...).want(http.StatusOK)
				if messages, _ := done.document()["messages"].([]any); (len(messages) > 0) != (group == "both") {
					t.Errorf("%s %s: %s", group, answer, done.body)
				}
			}
		}
		made := s.request(http.MethodPost, "/v1/groups/"+group+"revoke/invitations", ada, key...)
		revoked := s.request(http.MethodPost, made.Header.Get("Location")+"/revoke", "", key...).want(http.StatusOK)
		s.description().declared(revoked, "/v1/invitations/{id}/revoke")
		if result, said := revoked.document()["result"]; said != (group == "both") || said && result != "stopped" {
			t.Errorf("%s revoke: %s", group, revoked.body)
		}
	}
}
