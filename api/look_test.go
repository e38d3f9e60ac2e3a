package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// smtpLike answers like a relay: no to bounce@example.com, else yes.
// It remembers the links.
type smtpLike struct{ links sync.Map }

func (s *smtpLike) Send(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
	if err := handover(ctx, "smtp.example.com:587"); err != nil {
		return outbox.Reply{}, err
	}
	s.links.Store(m.ID, m.Data["link"])
	if m.Recipient == "bounce@example.com" {
		return outbox.Reply{Relay: "smtp.example.com:587", Code: 550, Enhanced: "5.1.1", Text: "No such user"},
			&outbox.SendError{Outcome: outbox.Rejected, Err: errors.New("550 5.1.1 No such user")}
	}
	return outbox.Reply{Relay: "smtp.example.com:587", Code: 250, Enhanced: "2.0.0", Text: "OK: queued as 1"}, nil
}

// count is how many messages it was given.
func (s *smtpLike) count() (n int) {
	s.links.Range(func(any, any) bool { n++; return true })
	return n
}

// token is the one in the link that was mailed with a message.
func (s *smtpLike) token(messageID any) string {
	link, _ := s.links.Load(messageID)
	_, token, _ := strings.Cut(fmt.Sprint(link), "token=")
	return token
}

// relay runs a relay on the database of s.
func (s *service) relay() *smtpLike {
	s.t.Helper()
	hop := &smtpLike{}
	relay, err := outbox.NewRelay(outbox.RelayConfig{
		Pool:      s.pool,
		Senders:   map[string]outbox.Sender{"email": hop},
		AcceptURL: "https://example.com/join?token={token}",
		Secret:    []byte("0123456789abcdef0123456789abcdef"),

		AllowUnsafe: true,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := relay.Start(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := relay.Stop(ctx); err != nil {
			s.t.Error(err)
		}
	})
	return hop
}

// finished looks at path until its message is finished.
func (s *service) finished(path string) (invitation, message, attempt map[string]any) {
	s.t.Helper()
	eventually(s.t, "the message is finished", func() bool {
		return !strings.Contains(string(s.get(path).want(http.StatusOK).body), `"status":"queued"`)
	})
	invitation = s.get(path).document()
	message = first(s.t, invitation, "messages")
	return invitation, message, first(s.t, message, "attempts")
}

func first(t testing.TB, document map[string]any, list string) map[string]any {
	t.Helper()
	items, _ := document[list].([]any)
	if len(items) != 1 {
		t.Fatalf("%s has %d items: %v", list, len(items), document)
	}
	item, _ := items[0].(map[string]any)
	return item
}

func TestGetInvitation_saysWhenAndByWhichRelayItWasSent(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.relay()
	location := s.invite(ada).want(http.StatusAccepted).Header.Get("Location")
	invitation, message, attempt := s.finished(location)

	if invitation["status"] != "pending" || message["status"] != "sent" || message["reason"] != nil {
		t.Errorf("invitation is %v", invitation)
	}
	for _, value := range []any{message["sent_at"], attempt["began_at"], attempt["finished_at"], invitation["expires_at"]} {
		text, _ := value.(string)
		if _, err := time.Parse(time.RFC3339Nano, text); err != nil || !strings.HasSuffix(text, "Z") {
			t.Errorf("%v is not a time in UTC", value)
		}
	}
	want := map[string]any{
		"number": 1.0, "outcome": "accepted", "relay": "smtp.example.com:587", "code": 250.0, "enhanced_code": "2.0.0", "reply": "OK: queued as 1",
	}
	for name, value := range want {
		if attempt[name] != value {
			t.Errorf("%s is %v, want %v", name, attempt[name], value)
		}
	}
	for _, name := range []string{"link", "data", "token_hash", "instance"} {
		if invitation[name] != nil || message[name] != nil || attempt[name] != nil {
			t.Errorf("the answer has %s", name)
		}
	}
}

func TestGetMessage_saysWhyItFailed(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.relay()
	answer := s.invite(`{"email":"bounce@example.com"}`).want(http.StatusAccepted)
	s.finished(answer.Header.Get("Location"))

	id, _ := answer.document()["message_id"].(string)
	message := s.get("/v1/messages/" + id).want(http.StatusOK).document()
	attempt := first(t, message, "attempts")
	if message["status"] != "failed" || message["reason"] == nil || message["sent_at"] != nil || message["finished_at"] == nil {
		t.Errorf("message is %v", message)
	}
	if attempt["outcome"] != "rejected" || attempt["code"] != 550.0 || attempt["enhanced_code"] != "5.1.1" {
		t.Errorf("attempt is %v", attempt)
	}
	if message["invitation_id"] != answer.document()["id"] {
		t.Errorf("message %v is not of invitation %v", message, answer.document()["id"])
	}
}

func TestGet_unknownIDIsNotFound(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for _, id := range []string{"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21", "nonsense", "%FF", "%00", "'"} {
		s.get("/v1/invitations/"+id).problem(http.StatusNotFound, "not-found")
		s.get("/v1/messages/"+id).problem(http.StatusNotFound, "not-found")
	}
}
