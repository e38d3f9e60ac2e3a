package sender_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
)

func TestSend_survivesARelayThatNeverStopsTalking(t *testing.T) {
	t.Parallel()
	flood := func(s *session) {
		for line := strings.Repeat("220-blah blah\r\n", 500); ; {
			if _, err := s.conn.Write([]byte(line)); err != nil {
				return
			}
		}
	}
	for name, script := range map[string]func(*session){
		"greeting": flood,
		"EHLO":     func(s *session) { s.say("220 peer"); s.hear(); flood(s) },
		"MAIL":     func(s *session) { s.greet(); s.hear(); flood(s) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, func(_ int, s *session) { script(s) })
			_, err := newEmail(t, p.url()).Send(t.Context(), invitation("ada@example.com"), noHandover(t))
			wantOutcome(t, err, outbox.Deferred)
			if err == nil || !strings.Contains(err.Error(), "has no end") {
				t.Errorf("%v", err)
			}
			p.stop()
		})
	}
}

// What the relay quotes must not end up in logs and ledger.
func TestSend_keepsAddressesAndLinksOutOfRepliesAndErrors(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(_ int, s *session) {
		s.greet()
		s.envelope()
		s.dot()
		s.say("554 5.7.1 <ada@example.com>: blocked link " + acceptLink + "\x1b[2J")
	})
	var h handovers
	reply, err := newEmail(t, p.url()).Send(t.Context(), invitation("ada@example.com"), h.record)
	wantOutcome(t, err, outbox.Rejected)
	if want := "<***@example.com>: blocked link [link] [2J"; reply.Text != want {
		t.Errorf("the text is %q, want %q", reply.Text, want)
	}
	for _, secret := range []string{"ada@", "token=abc", "\x1b"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error holds %q: %v", secret, err)
		}
	}
}

func TestSend_hidesAddressesInWhatTheGreetingSays(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]func(*session){
		"refused": func(s *session) { s.say("554-5.7.1 go away,", "554 5.7.1 ask admin@example.com\x07") },
		"garbage": func(s *session) { s.say("hello admin@example.com\x07") },
	} {
		p := startPeer(t, func(_ int, s *session) { script(s) })
		reply, err := newEmail(t, p.url()).Send(t.Context(), invitation("ada@example.com"), noHandover(t))
		wantOutcome(t, err, outbox.Deferred)
		if err == nil || strings.Contains(err.Error(), "admin@") || strings.Contains(err.Error(), "\x07") {
			t.Errorf("%s: %v", name, err)
		}
		if name == "refused" {
			want := outbox.Reply{Relay: p.listener.Addr().String(), Code: 554, Enhanced: "5.7.1", Text: "go away, ask ***@example.com"}
			if reply != want || !errors.Is(err, sender.ErrRefused) {
				t.Errorf("%+v, %v", reply, err)
			}
		}
	}
}
