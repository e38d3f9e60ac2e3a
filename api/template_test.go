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

// The link of a message that is about no invitation is a key too.
func TestPreview_ofAMessageHasNoLinkOfTheApplicationThatWorks(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	const data = `{"link":"https://app.example.com/verify?token=hush","deep":{"list":["Open HTTPS://user:hush@app.example.com/hush#hush, then go on",7,true,null]},
		"app":"myapp://hush","login":"http://user:hush@example.com","broken":"https://%zz/hush","code":"hush-8f14e45fceea167a5a36dedd4bea2543","plain":"Ada of https://example.com/","long":"Donaudampfschifffahrtsgesellschaft"}`
	look := func(header ...string) string {
		t.Helper()
		id := s.request(http.MethodPost, "/v1/messages", `{"recipient":"ada@example.com","template":"verify","data":`+data+`}`, header...).want(http.StatusAccepted).document()["id"].(string)
		a := s.get("/v1/messages/"+id+"/preview", header...).want(http.StatusOK)
		s.description().declared(a, "/v1/messages/{id}/preview")
		return a.document()["text"].(string)
	}
	const want = "ada@example.com<nil> <nil> map[app:myapp://TOKEN broken:TOKEN code:TOKEN deep:map[list:[Open https://app.example.com/TOKEN then go on 7 true <nil>]] " +
		"link:https://app.example.com/TOKEN login:http://example.com/TOKEN long:Donaudampfschifffahrtsgesellschaft plain:Ada of https://example.com/]"
	if got := strings.Join(strings.Fields(look()), " "); got != want {
		t.Errorf("\n%s\ninstead of\n%s", got, want)
	}
	key := bearer(s.key(outbox.NewAPIKey{Tenant: "a"}))
	if got := look(key...); strings.Contains(got, "hush") {
		t.Errorf("%s", got)
	}
	test := bearer(s.key(outbox.NewAPIKey{Tenant: "a", Test: true}))
	if got := look(test...); strings.Count(got, "hush") != 8 {
		t.Errorf("a test sees %s", got)
	}
}
