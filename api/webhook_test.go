package api_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/api"
	"github.com/mailcrane/mailcrane/outbox"
)

func TestWebhooks_areMadeChangedAndRemoved(t *testing.T) {
	t.Parallel()
	const daemons = "0123456789abcdef0123456789abcdef"
	s := start(t, func(c *api.Config) { c.Secret = []byte(daemons) })
	const path = "/v1/webhooks"
	made := s.post(path, path, `{"url":"https://example.com/hook","types":["invitation.*"]}`).want(http.StatusCreated)
	id, _ := made.document()["id"].(string)
	secretOf := func(a *answer, generation int) {
		t.Helper()
		want := "whsec_" + base64.StdEncoding.EncodeToString(outbox.WebhookSecret([]byte(daemons), id, generation))
		if a.document()["secret"] != want {
			t.Errorf("%s", a.body)
		}
	}
	secretOf(made, 1)
	secretOf(s.post(path+"/"+id+"/rotate", path+"/{id}/rotate", "").want(http.StatusOK), 2)
	s.post(path+"/"+id+"/rotate", path+"/{id}/rotate", "").problem(http.StatusTooManyRequests, "limit-reached")
	list := s.get(path).want(http.StatusOK)
	s.description().declared(list, path)
	if row := first(t, list.document(), "webhooks"); row["url"] != "https://example.com/hook" || row["rotated_at"] == nil || strings.Contains(string(list.body), "whsec_") {
		t.Errorf("%s", list.body)
	}
	if err := outbox.DisableWebhook(t.Context(), s.pool, id, "test"); err != nil {
		t.Fatal(err)
	}
	one := s.get(path + "/" + id).want(http.StatusOK)
	s.description().declared(one, path+"/{id}")
	if one.document()["disabled_because"] != "test" {
		t.Errorf("%s", one.body)
	}
	if d := s.post(path+"/"+id+"/enable", path+"/{id}/enable", "").want(http.StatusOK).document(); d["disabled_at"] != nil {
		t.Errorf("%v", d)
	}
	s.post(path+"/"+id+"/replay", path+"/{id}/replay", `{}`).want(http.StatusAccepted)
	never := s.post(path+"/"+id+"/replay", path+"/{id}/replay", `{"after":"never"}`)
	never.problem(http.StatusUnprocessableEntity, "invalid-input")
	never.errorAt("body.after")
	for _, want := range []int{http.StatusNoContent, http.StatusNotFound} {
		a := s.request(http.MethodDelete, path+"/"+id, "").want(want)
		s.description().declared(a, path+"/{id}")
	}
	for _, gone := range []string{"/rotate", "/enable", "/replay"} {
		s.post(path+"/"+id+gone, path+"/{id}"+gone, "{}").problem(http.StatusNotFound, "not-found")
	}
}

func TestWebhooks_badInput(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *api.Config) {
		c.Secret = []byte("0123456789abcdef0123456789abcdef")
		c.WebhookProblem = func(url string) string {
			if url == "https://10.1.2.3" {
				return "leads nowhere"
			}
			return ""
		}
	})
	for body, location := range map[string]string{
		`{}`:                                        "body",
		`{"url":""}`:                                "body.url",
		`{"url":"https://10.1.2.3"}`:                "body.url",
		`{"url":"ftp://example.com"}`:               "body.url",
		`{"url":"https://user@example.com"}`:        "body.url",
		`{"url":"https://a:b@example.com/"}`:        "body.url",
		`{"url":"https://"}`:                        "body.url",
		`{"url":"https://example.com/\u0000"}`:      "body.url",
		`{"url":"https://example.com/a b"}`:         "body.url",
		`{"url":"https://example.com/\r\nHost: x"}`: "body.url",
		`{"url":"https://e.example/` + strings.Repeat("x", 3000) + `"}`: "body.url",
		`{"url":"https://example.com","types":["everything"]}`:          "body.types",
		`{"url":"https://example.com","types":["invitation."]}`:         "body.types",
		`{"url":"https://example.com","types":["webhook.sent"]}`:        "body.types",
		`{"url":"https://example.com","types":[null]}`:                  "body.types[0]",
		`{"url":7}`: "body.url",
	} {
		a := s.request(http.MethodPost, "/v1/webhooks", body)
		s.description().declared(a, "/v1/webhooks")
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
		a.errorAt(location)
	}
	if n := count(t, s.pool, `SELECT count(*) FROM mailcrane.webhook`); n != 0 {
		t.Errorf("%d webhooks", n)
	}
	start(t, nil).request(http.MethodPost, "/v1/webhooks", `{"url":"https://example.com"}`).problem(http.StatusServiceUnavailable, "not-ready")
}
