package api_test

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

func TestEnqueue_sendsAnyTemplate(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.relay()
	const verify = `{"recipient":"ada@example.com","template":"verify","data":{"link":"https://example.com/1"},"locale":"de","priority":1,"expires_in":3600}`
	send := func(key string) *answer {
		a := s.request(http.MethodPost, "/v1/messages", verify, "Idempotency-Key", key).want(http.StatusAccepted)
		s.description().declared(a, "/v1/messages")
		return a
	}
	created := send("k")
	id, location := created.document()["id"], created.Header.Get("Location")
	if location != "/v1/messages/"+id.(string) || created.document()["result"] != "created" {
		t.Errorf("%v, %s", created.document(), location)
	}
	if again := send("k").document(); again["id"] != id || again["result"] != "created" {
		t.Errorf("%v", again)
	}
	if other := send("other").document(); other["id"] == id {
		t.Errorf("%v", other)
	}
	eventually(t, "it is sent", func() bool { return s.get(location).document()["status"] == "sent" })
	if m := s.get(location).document(); m["template"] != "verify" || m["locale"] != "de" || m["priority"] != 1.0 || m["expires_at"] == nil {
		t.Errorf("%v", m)
	}
	s.post("/v1/suppressions", "/v1/suppressions", `{"address":"ada@example.com"}`).want(http.StatusOK)
	third := send("third")
	if d := third.document(); d["result"] != "created" {
		t.Errorf("the answer says that the address is suppressed: %v", d)
	}
	if d := s.get(third.Header.Get("Location")).document(); d["status"] != "suppressed" {
		t.Errorf("%v", d)
	}
}

func TestEnqueue_refusesWhatItShould(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for body, location := range map[string]string{
		`{"recipient":"ada@example.com"}`:                                           "body",
		`{"recipient":"nobody","template":"verify"}`:                                "body.recipient",
		`{"recipient":"ada@example.com","template":"invitation"}`:                   "body.template",
		`{"recipient":"ada@example.com","template":"invitation-reminder"}`:          "body.template",
		`{"recipient":"ada@example.com","template":"../x"}`:                         "body.template",
		`{"recipient":"ada@example.com","template":"verify","locale":"x!"}`:         "body.locale",
		`{"recipient":"ada@example.com","template":"verify","priority":9}`:          "body.priority",
		`{"recipient":"ada@example.com","template":"verify","data":[]}`:             "body.data",
		`{"recipient":"ada@example.com","template":"verify","Template":"x"}`:        "body",
		`{"recipient":"ada@example.com","template":"verify","data":{"a":"\u0000"}}`: "body",
	} {
		a := s.post("/v1/messages", "/v1/messages", body)
		if a.StatusCode != http.StatusUnprocessableEntity && a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %s", body, a.StatusCode, a.body)
		}
		if a.StatusCode == http.StatusUnprocessableEntity {
			a.errorAt(location)
		}
	}
	random := rand.New(rand.NewPCG(rand.Uint64(), 0))
	tried := 0
	for _, body := range malformed(random, 200) {
		body = strings.Replace(body, `"email":`, `"template":"verify","recipient":`, 1)
		if a := s.request(http.MethodPost, "/v1/messages", body); a.StatusCode >= http.StatusInternalServerError {
			t.Errorf("%.300q: %d", body, a.StatusCode)
		}
		tried++
	}
	t.Logf("%d bodies", tried)
}

func TestEnqueue_hasAQuota(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	if _, err := s.pool.Exec(t.Context(), `INSERT INTO mailcrane.quota (kind, at_most) VALUES ('message', 1)`); err != nil {
		t.Fatal(err)
	}
	const body = `{"recipient":"ada@example.com","template":"verify"}`
	s.post("/v1/messages", "/v1/messages", body).want(http.StatusAccepted)
	a := s.post("/v1/messages", "/v1/messages", body)
	a.problem(http.StatusTooManyRequests, "limit-reached")
	if a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}
