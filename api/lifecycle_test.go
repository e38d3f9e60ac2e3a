package api_test

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// mailed is an invitation whose mail was sent, and the token in it.
type mailed struct{ id, messageID, token string }

// mail invites somebody and waits for the mail.
func (s *service) mail(hop *smtpLike, body string) mailed {
	s.t.Helper()
	a := s.invite(body).want(http.StatusAccepted)
	_, message, _ := s.finished(a.Header.Get("Location"))
	messageID, _ := message["id"].(string)
	return mailed{strings.TrimPrefix(a.Header.Get("Location"), "/v1/invitations/"), messageID, hop.token(messageID)}
}

// post makes a request, and checks that the answer is described under the path.
func (s *service) post(path, described, body string) *answer {
	s.t.Helper()
	a := s.request(http.MethodPost, path, body)
	s.description().declared(a, described)
	s.silent(a)
	return a
}

func tokenBody(token string) string {
	body, _ := json.Marshal(map[string]string{"token": token})
	return string(body)
}

func TestLifecycle_acceptsAndDeclinesByToken(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	hop := s.relay()
	for word, status := range map[string]string{"accept": "accepted", "decline": "declined"} {
		path := "/v1/invitations/" + word
		m := s.mail(hop, `{"email":"`+word+`@example.com"}`)
		verify := func(want string) {
			d := s.post("/v1/invitations/verify", "/v1/invitations/verify", tokenBody(m.token)).want(http.StatusOK).document()
			if d["id"] != m.id || d["status"] != want {
				t.Errorf("%v instead of %s", d, want)
			}
		}
		verify("pending")
		if d := s.post(path, path, tokenBody(m.token)).want(http.StatusOK).document(); d["id"] != m.id || d["status"] != status || d["finished_at"] == nil {
			t.Errorf("%v", d)
		}
		verify(status)
		p := s.post(path, path, tokenBody(m.token)).problem(http.StatusConflict, "not-pending")
		if detail, _ := p["detail"].(string); !strings.Contains(detail, "is "+status) {
			t.Errorf("%v", p)
		}
	}
	for _, path := range []string{"/v1/invitations/accept", "/v1/invitations/decline", "/v1/invitations/verify"} {
		s.post(path, path, tokenBody(strings.Repeat("A", 43))).problem(http.StatusNotFound, "invalid-token")
		s.post(path, path, tokenBody("")).problem(http.StatusNotFound, "invalid-token")
		s.post(path, path, `{}`).problem(http.StatusUnprocessableEntity, "invalid-input")
		s.post(path, path, `{"token":7}`).problem(http.StatusUnprocessableEntity, "invalid-input")
		s.post(path, path, tokenBody(strings.Repeat("A", 300))).problem(http.StatusUnprocessableEntity, "invalid-input")
		s.post(path, path, `{"token":`).problem(http.StatusBadRequest, "malformed-body")
	}
}

func TestLifecycle_acceptsAndDeclinesByID(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for word, status := range map[string]string{"accept": "accepted", "decline": "declined"} {
		location := s.invite(`{"email":"` + word + `@example.com","link":"https://example.com/1"}`).want(http.StatusAccepted).Header.Get("Location")
		described := "/v1/invitations/{id}/" + word
		if d := s.post(location+"/"+word, described, "").want(http.StatusOK).document(); d["status"] != status || first(t, d, "messages")["status"] != "cancelled" {
			t.Errorf("%v", d)
		}
		s.post(location+"/"+word, described, "").problem(http.StatusConflict, "not-pending")
		s.post("/v1/invitations/x/"+word, described, "").problem(http.StatusNotFound, "not-found")
	}
}

func TestLifecycle_revokesAndSaysWhetherInTime(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	location := s.invite(ada).want(http.StatusAccepted).Header.Get("Location")
	const described = "/v1/invitations/{id}/revoke"
	for range 2 {
		if d := s.post(location+"/revoke", described, "").want(http.StatusOK).document(); d["result"] != "stopped" || "/v1/invitations/"+d["id"].(string) != location {
			t.Errorf("%v", d)
		}
	}
	s.post("/v1/invitations/x/revoke", described, "").problem(http.StatusNotFound, "not-found")
	s.post(location+"/accept", "/v1/invitations/{id}/accept", "").problem(http.StatusConflict, "not-pending")
	m := s.mail(s.relay(), ada)
	if d := s.post("/v1/invitations/"+m.id+"/revoke", described, "").want(http.StatusOK).document(); d["result"] != "already_sent" {
		t.Errorf("%v", d)
	}
	if d := s.post("/v1/messages/"+m.messageID+"/cancel", "/v1/messages/{id}/cancel", "").want(http.StatusOK).document(); d["result"] != "already_sent" {
		t.Errorf("%v", d)
	}
	s.post("/v1/messages/x/cancel", "/v1/messages/{id}/cancel", "").problem(http.StatusNotFound, "not-found")
}

func TestLifecycle_mailsAgain(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	m := s.mail(s.relay(), ada)
	location := "/v1/invitations/" + m.id
	const resend, move = "/v1/invitations/{id}/resend", "/v1/invitations/{id}/change-address"
	a := s.post(location+"/resend", resend, "")
	a.problem(http.StatusTooManyRequests, "limit-reached")
	if seconds, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || seconds < 1 || seconds > 600 {
		t.Errorf("Retry-After is %q", a.Header.Get("Retry-After"))
	}
	if _, err := s.pool.Exec(t.Context(), `UPDATE mailcrane.policy SET resend_after = '0', max_resends = 2`); err != nil {
		t.Fatal(err)
	}
	a = s.post(location+"/resend", resend, "").want(http.StatusAccepted)
	if d := a.document(); a.Header.Get("Location") != location || d["id"] != m.id || d["result"] != "created" || d["message_id"] == m.messageID {
		t.Errorf("%v, %v", a.Header, d)
	}
	s.invite(`{"email":"grace@example.com"}`).want(http.StatusAccepted)
	s.post(location+"/change-address", move, `{"email":"grace@example.com"}`).problem(http.StatusConflict, "already-invited")
	s.post(location+"/change-address", move, `{"email":"nobody"}`).errorAt("body.email")
	s.post(location+"/change-address", move, `{"email":"a\u0000@example.com"}`).problem(http.StatusUnprocessableEntity, "invalid-input")
	s.post(location+"/change-address", move, `{}`).problem(http.StatusUnprocessableEntity, "invalid-input")
	s.post(location+"/change-address", move, `{"email":"ada@example.org"}`).want(http.StatusAccepted)
	if look := s.get(location).document(); look["email"] != "ada@example.org" {
		t.Errorf("%v", look)
	}
	a = s.post(location+"/resend", resend, "")
	a.problem(http.StatusTooManyRequests, "limit-reached")
	if a.Header.Get("Retry-After") != "" {
		t.Error("it will not be possible later either")
	}
	s.post("/v1/invitations/x/resend", resend, "").problem(http.StatusNotFound, "not-found")
	s.post(location+"/revoke", "/v1/invitations/{id}/revoke", "").want(http.StatusOK)
	s.post(location+"/resend", resend, "").problem(http.StatusConflict, "not-pending")
}
