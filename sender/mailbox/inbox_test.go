package mailbox_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/sender/mailbox"
)

const htmlMail = "From: =?utf-8?q?Caf=C3=A9_Club?= <club@example.com>\r\nTo: b@example.com\r\nSubject: <b>join</b> us\r\nMIME-Version: 1.0\r\n" +
	"Content-Type: multipart/alternative; boundary=x\r\n\r\n" +
	"--x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nJoin: https://app.example/join?token=3D1\r\n" +
	"--x\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" +
	"<p id=hello>Hello <a href=\"https://app.example/join\">join</a></p><script>document.title='owned';document.getElementById('hello').textContent='owned'</script>" +
	"<img src=\"https://tracker.example/pixel.png\">\r\n--x--\r\n."

// withMail starts a mailbox with one mail in it, and its pages.
func withMail(t *testing.T, content string) (*mailbox.Server, *httptest.Server) {
	t.Helper()
	box := mailbox.Start(t, mailbox.Config{})
	web := httptest.NewServer(box.Handler())
	t.Cleanup(web.Close)
	c := dial(t, box)
	c.envelope("b@example.com")
	c.expect(content, "250", "QUIT", "221")
	return box, web
}

func request(t *testing.T, method, url string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func TestInbox_showsMailsToPeople(t *testing.T) {
	t.Parallel()
	_, web := withMail(t, htmlMail)
	response, list := request(t, http.MethodGet, web.URL+"/inbox")
	if !strings.Contains(list, "&lt;b&gt;join&lt;/b&gt; us") || strings.Contains(list, "<b>join") || !strings.Contains(list, `href="/inbox/mail/1"`) {
		t.Errorf("the list: %s", list)
	}
	if policy := response.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "script") {
		t.Errorf("policy %q", policy)
	}
	_, mail := request(t, http.MethodGet, web.URL+"/inbox/mail/1")
	for _, want := range []string{`sandbox="allow-popups allow-popups-to-escape-sandbox"`, "Join: https://app.example/join?token=1", "&lt;script&gt;", "<dd>Café Club &lt;club@example.com&gt;", "Content-Type: multipart/alternative"} {
		if !strings.Contains(mail, want) {
			t.Errorf("the mail lacks %q: %s", want, mail)
		}
	}
	if strings.Contains(mail, "<script>") {
		t.Error("the mail's HTML is in the page itself")
	}
	response, _ = request(t, http.MethodGet, web.URL+"/inbox/mail/1/html")
	policy := response.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "img-src data:", "sandbox allow-popups"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the frame's policy %q lacks %q", policy, want)
		}
	}
	if strings.Contains(policy, "allow-scripts") || strings.Contains(policy, "allow-same-origin") {
		t.Errorf("the frame's policy is %q", policy)
	}
	response, raw := request(t, http.MethodGet, web.URL+"/inbox/mail/1/raw")
	if response.Header.Get("Content-Type") != "message/rfc822" || raw+"." != htmlMail {
		t.Errorf("raw: %q", raw)
	}
}

func TestInbox_saysWhatToDoWhileItIsEmpty(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{})
	web := httptest.NewServer(box.Handler())
	defer web.Close()
	_, list := request(t, http.MethodGet, web.URL+"/inbox")
	if !strings.Contains(list, "No mail yet") || !strings.Contains(list, web.URL+"/v1/groups/42/invitations") {
		t.Error(list)
	}
}

func TestInbox_answersProgramsInJSON(t *testing.T) {
	t.Parallel()
	box, web := withMail(t, htmlMail)
	c := dial(t, box)
	c.envelope("c@example.com")
	c.expect(content, "250")
	list := func(query string) []map[string]any {
		t.Helper()
		_, body := request(t, http.MethodGet, web.URL+"/inbox/messages"+query)
		var answer struct{ Messages []map[string]any }
		if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Messages == nil {
			t.Fatal(body, err)
		}
		return answer.Messages
	}
	if all := list(""); len(all) != 2 || all[0]["subject"] != "Grüße" || all[0]["header_message_id"] != "1@x" {
		t.Errorf("all: %v", all)
	}
	if found := list("?to=b@example.com"); len(found) != 1 || found[0]["id"] != "1" {
		t.Errorf("to b: %v", found)
	}
	if found := list("?limit=1"); len(found) != 1 {
		t.Errorf("limit: %v", found)
	}
	_, body := request(t, http.MethodGet, web.URL+"/inbox/messages/1")
	var mail map[string]any
	if err := json.Unmarshal([]byte(body), &mail); err != nil || !strings.Contains(mail["html"].(string), "Hello") || !strings.Contains(mail["text"].(string), "token=1") {
		t.Errorf("mail: %s, %v", body, err)
	}
	for path, status := range map[string]int{"/inbox/messages/99": 404, "/inbox/mail/99": 404, "/inbox/nothing/here": 404, "/inbox/messages?limit=x": 422} {
		response, body := request(t, http.MethodGet, web.URL+path)
		if response.StatusCode != status || response.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s %s", path, response.Status, body)
		}
	}
	if response, body := request(t, http.MethodPut, web.URL+"/inbox/messages"); response.StatusCode != http.StatusMethodNotAllowed ||
		response.Header.Get("Allow") != "DELETE, GET, HEAD" || response.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("PUT: %s, %v, %s", response.Status, response.Header, body)
	}
	if response, _ := request(t, http.MethodDelete, web.URL+"/inbox/messages"); response.StatusCode != http.StatusNoContent || len(list("")) != 0 {
		t.Errorf("delete: %s", response.Status)
	}
}

func TestInbox_deletesForItsOwnPageOnly(t *testing.T) {
	t.Parallel()
	box, web := withMail(t, htmlMail)
	for _, step := range []struct {
		site string
		left int
	}{{"cross-site", 1}, {"same-origin", 0}} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, web.URL+"/inbox/delete", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Sec-Fetch-Site", step.site)
		response, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if left := len(box.Mails("")); left != step.left {
			t.Errorf("%s: %s, %d mails left", step.site, response.Status, left)
		}
	}
}
