package sender_test

import (
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/sender"
)

func TestNewEmail_reportsAllMistakesTogether(t *testing.T) {
	t.Parallel()
	_, err := sender.NewEmail(sender.EmailConfig{From: "Club club@example.com", EnvelopeFrom: "<bounces@example.com>", LocalName: "no_name"})
	for _, want := range []string{
		"the relay is missing", "from is not a mailbox", "envelope from has", "local name is not a domain name",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}

func TestNewEmail_acceptsMailboxes(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{
		"club@example.com":                      "<club@example.com>",
		"Club <club@example.com>":               `"Club" <club@example.com>`,
		`"Club, the best" <club@example.com>`:   `"Club, the best" <club@example.com>`,
		"Clüb <club@bücher.example>":            "=?utf-8?q?Cl=C3=BCb?= <club@xn--bcher-kva.example>",
		"=?utf-8?q?Cl=C3=BCb?= <c@example.com>": "=?utf-8?q?Cl=C3=BCb?= <c@example.com>",
	} {
		data := compose(t, invitation("ada@example.com"), func(c *sender.EmailConfig) { c.From = from })
		if got := parse(t, data).header.Get("From"); got != want {
			t.Errorf("%s gives %s, want %s", from, got, want)
		}
	}
	for _, from := range []string{"", "club", "a@example.com, b@example.com", "Club <club@example.com>\r\nBcc: x@example.com", "clüb@example.com"} {
		relays, err := sender.ParseRelays("smtp://127.0.0.1?tls=none")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sender.NewEmail(sender.EmailConfig{Relays: relays, From: from}); err == nil {
			t.Errorf("%q is accepted", from)
		}
	}
}

func TestSend_usesTheEnvelopeFromForBounces(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(_ int, s *session) { s.greet(); s.accept() })
	email := newEmail(t, p.url(), func(c *sender.EmailConfig) { c.EnvelopeFrom = "bounces@bücher.example" })
	_ = send(t, email, "accepted")
	_ = email.Close()
	log := p.stop()[0]
	if !strings.Contains(log, "\r\nMAIL FROM:<bounces@xn--bcher-kva.example>\r\n") || !strings.Contains(log, "\r\nFrom: \"Engine Club\" <club@example.com>\r\n") {
		t.Errorf("the relay got\n%.600s", log)
	}
}
