package api_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/api"
	"github.com/mailcrane/mailcrane/outbox"
)

// texts are templates that print what they get.
type texts struct{}

func (texts) Names() map[string][]string {
	return map[string][]string{"verify": {"en"}, "invitation": {"de", "en"}}
}

func (texts) Render(m *outbox.Message) (subject, text, html string, err error) {
	data, _ := m.Data["data"].(map[string]any)
	if m.Template == "verify" && data["link"] == nil {
		return "", "", "", errors.New(`template: en/verify.txt:1:8: executing "verify" at <.data.link>: map has no entry for key "link", not ` + secret)
	}
	return m.Template + " in " + m.Locale, fmt.Sprint(m.Recipient, m.Data["link"], m.Data["group_name"], data), "", nil
}

func TestTemplates_areListedAndPreviewed(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	list := s.get("/v1/templates").want(http.StatusOK)
	s.description().declared(list, "/v1/templates")
	if got := strings.TrimSpace(string(list.body)); got != `{"templates":[{"name":"invitation","locales":["de","en"]},{"name":"verify","locales":["en"]}]}` {
		t.Errorf("%s", got)
	}
	look := func(name, body string) *answer {
		t.Helper()
		a := s.request(http.MethodPost, "/v1/templates/"+name+"/preview", body)
		s.description().declared(a, "/v1/templates/{name}/preview")
		return a
	}
	d := look("invitation", `{"locale":"de","group_name":"Club","data":{"a":1}}`).want(http.StatusOK).document()
	if d["subject"] != "invitation in de" || d["text"] != "ada@example.comhttps://example.com/TOKENClubmap[a:1]" {
		t.Errorf("%v", d)
	}
	a := look("verify", `{"data":{"other":"`+secret+`"}}`)
	a.problem(http.StatusUnprocessableEntity, "invalid-input")
	if said := a.errorAt("body.data"); said != "lacks link, which the template wants" {
		t.Errorf("%s", said)
	}
	s.silent(a)
	look("nothing", `{}`).problem(http.StatusNotFound, "not-found")
	look("%00", `{}`).problem(http.StatusNotFound, "not-found")
	look("verify", `{"expires_at":"soon"}`).problem(http.StatusUnprocessableEntity, "invalid-input")
	look("verify", `{`).problem(http.StatusBadRequest, "malformed-body")
	if n := count(t, s.pool, `SELECT (SELECT count(*) FROM mailcrane.message) + (SELECT count(*) FROM mailcrane.request)`); n != 0 {
		t.Error("to look has written something")
	}
}

func TestPreview_ofAMessageHasNoLinkThatWorks(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *api.Config) {
		c.AcceptURL, c.Secret = "https://example.com/join?token={token}", []byte("0123456789abcdef0123456789abcdef")
	})
	look := func(id string) *answer {
		t.Helper()
		a := s.get("/v1/messages/" + id + "/preview")
		s.description().declared(a, "/v1/messages/{id}/preview")
		return a
	}
	hop := s.relay()
	m := s.mail(hop, ada)
	if text := look(m.messageID).want(http.StatusOK).document()["text"].(string); !strings.Contains(text, "https://example.com/join?token=TOKEN") || strings.Contains(text, m.token) {
		t.Errorf("%s", text)
	}
	passed := s.invite(`{"email":"grace@example.com","link":"https://app.example.com/join/secret?key=secret"}`).want(http.StatusAccepted).document()["message_id"].(string)
	if text := look(passed).document()["text"].(string); !strings.Contains(text, "https://app.example.com/TOKEN") || strings.Contains(text, "secret") {
		t.Errorf("%s", text)
	}
	look("x").problem(http.StatusNotFound, "not-found")
	verify := s.request(http.MethodPost, "/v1/messages", `{"recipient":"ada@example.com","template":"verify"}`).want(http.StatusAccepted).document()["id"].(string)
	look(verify).problem(http.StatusUnprocessableEntity, "invalid-input")
}

// Nobody is mailed the link of a test: whoever tests finds it here, and can follow it.
func TestPreview_ofATestHasTheLink(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *api.Config) {
		c.AcceptURL, c.Secret = "https://example.com/join?token={token}", []byte("0123456789abcdef0123456789abcdef")
	})
	s.relay()
	key := bearer(s.key(outbox.NewAPIKey{Tenant: "a", Test: true}))
	a := s.invite(ada, key...).want(http.StatusAccepted)
	s.finished(a.Header.Get("Location"))
	text, _ := s.get("/v1/messages/"+a.document()["message_id"].(string)+"/preview", key...).want(http.StatusOK).document()["text"].(string)
	_, rest, _ := strings.Cut(text, "token=")
	accepted := s.request(http.MethodPost, "/v1/invitations/accept", tokenBody(rest[:43]), key...).want(http.StatusOK)
	if accepted.document()["status"] != "accepted" {
		t.Errorf("%s", accepted.body)
	}
}
