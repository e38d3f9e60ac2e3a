package sender_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/sender"
)

func TestParseRelay_acceptsWhatItDocuments(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ url, addr, printed string }{
		{"smtp://mail.example.com", "mail.example.com:587", "smtp://mail.example.com:587"},
		{"smtp://user:secret@mail.example.com", "mail.example.com:587", "smtp://***@mail.example.com:587"},
		{"SMTP://user:secret@mail.example.com:2525/", "mail.example.com:2525", "smtp://***@mail.example.com:2525"},
		{"smtp://user@example.com:secret@mail.example.com", "mail.example.com:587", "smtp://***@mail.example.com:587"},
		{"smtp://us%2Fer:se%40c%3Aret%23@mail.example.com?tls=starttls", "mail.example.com:587", "smtp://***@mail.example.com:587"},
		{"smtps://user:secret@mail.example.com", "mail.example.com:465", "smtps://***@mail.example.com:465"},
		{"smtp://mail.example.com?tls=none", "mail.example.com:25", "smtp://mail.example.com:25?tls=none"},
		{"smtp://127.0.0.1:1025?tls=none", "127.0.0.1:1025", "smtp://127.0.0.1:1025?tls=none"},
		{"smtp://user:secret@[::1]:1025?tls=none", "[::1]:1025", "smtp://***@[::1]:1025?tls=none"},
		{"smtp://user:secret@localhost?tls=none&auth=plain", "localhost:25", "smtp://***@localhost:25?auth=plain&tls=none"},
		{"smtp://user:secret@mail:25?tls=none&plaintext_auth=allow", "mail:25", "smtp://***@mail:25?tls=none"},
		{"smtp://user:secret@mail.example.com?auth=SCRAM-sha-256", "mail.example.com:587", "smtp://***@mail.example.com:587?auth=scram-sha-256"},
		{"smtp://mail_relay:25?tls=none", "mail_relay:25", "smtp://mail_relay:25?tls=none"},
		{"smtp://mail.example.com?rate=600/m&priority=2&connections=4", "mail.example.com:587", "smtp://mail.example.com:587?connections=4&priority=2&rate=600/m"},
		{"smtp://mail.example.com?rate=20", "mail.example.com:587", "smtp://mail.example.com:587?rate=20/s"},
		{"smtp://bücher.example", "xn--bcher-kva.example:587", "smtp://xn--bcher-kva.example:587"},
	} {
		relay, err := sender.ParseRelay(test.url)
		if err != nil {
			t.Errorf("%s: %v", test.url, err)
			continue
		}
		if relay.Addr() != test.addr || relay.String() != test.printed {
			t.Errorf("%s: got %s, %s; want %s, %s", test.url, relay.Addr(), relay, test.addr, test.printed)
		}
	}
}

func TestParseRelay_refusesMistakesWithoutQuotingThePassword(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ url, word string }{
		{"", "scheme"},
		{"mail.example.com:587", "scheme"},
		{"user:s3cret@mail.example.com:587", "scheme"},
		{"http://mail.example.com", "scheme"},
		{"smtp://", "host is missing"},
		{"smtp://user:s3cret@", "host is missing"},
		{"smtp://user:s3/cret@mail.example.com", "percent-encoded"},
		{"smtp://user:s3#cret@mail.example.com", "percent-encoded"},
		{"smtp://user:s3%zzcret@mail.example.com", "percent-encoded"},
		{"smtp://user:s3cret@mail.example.com:port", "percent-encoded"},
		{"smtp://user:s3cret@mail.example.com:0", "port"},
		{"smtp://user:s3cret@mail.example.com:70000", "port"},
		{"smtp://user@mail.example.com", "both"},
		{"smtp://:s3cret@mail.example.com", "both"},
		{"smtp://user:@mail.example.com", "both"},
		{"smtp://user:s3cret%00@mail.example.com", "NUL"},
		{"smtp://mail.example.com?auth=plain", "auth needs"},
		{"smtp://user:s3cret@mail.example.com?auth=ntlm", "auth must be"},
		{"smtp://user:s3cret@mail.example.com?tsl=s3cret", "unknown parameter"},
		{"smtp://user:s3cret@mail.example.com?tls=maybe", "tls must be"},
		{"smtps://user:s3cret@mail.example.com?tls=none", "smtps is TLS"},
		{"smtp://user:s3cret@mail.example.com?tls=none", "plaintext_auth=allow"},
		{"smtp://user:s3cret@localhost.example.com?tls=none", "plaintext_auth=allow"},
		{"smtp://user:s3cret@10.0.0.1?tls=none&plaintext_auth=yes", "can only be allow"},
		{"smtp://user:s3cret@mail.example.com/path", "nothing may follow"},
		{"smtp://user:s3cret@mail.example.com#s3cret", "nothing may follow"},
		{"smtp://user:s3cret@mail.example.com?priority=0", "priority must be 1 to 1000"},
		{"smtp://user:s3cret@mail.example.com?priority=s3cret", "priority must be"},
		{"smtp://user:s3cret@mail.example.com?connections=101", "connections must be 1 to 100"},
		{"smtp://user:s3cret@mail.example.com?connections=", "connections must be"},
		{"smtp://user:s3cret@mail.example.com?rate=0", "rate must be"},
		{"smtp://user:s3cret@mail.example.com?rate=s3/s", "rate must be"},
		{"smtp://user:s3cret@exa mple.com", "percent-encoded"},
		{"smtp://user:s3cret@ex\u200eample.com", "host is not"},
	} {
		relay, err := sender.ParseRelay(test.url)
		if err == nil {
			t.Errorf("%s: accepted as %s", test.url, relay)
			continue
		}
		if !strings.Contains(err.Error(), test.word) || strings.Contains(err.Error(), "s3") {
			t.Errorf("%s: %v; want %q and no password", test.url, err, test.word)
		}
	}
	_, err := sender.ParseRelay("smtpx://user@host:99999?tls=none&x=y")
	for _, word := range []string{"scheme", "both", "port", "unknown parameter"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q is missing in %v", word, err)
		}
	}
}

func TestRelay_neverPrintsItsPassword(t *testing.T) {
	t.Parallel()
	relay, err := sender.ParseRelay("smtp://us3r:s3cret@mail.example.com")
	if err != nil {
		t.Fatal(err)
	}
	cfg := struct{ Relay sender.Relay }{relay}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "relay", relay, "config", cfg)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "relay", relay, "config", cfg)
	asJSON, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{
		log.String(), string(asJSON), relay.String(),
		fmt.Sprintf("%v %+v %#v %s %q", relay, relay, relay, relay, relay),
		fmt.Sprintf("%v %+v %#v %v %+v %#v", cfg, cfg, cfg, &cfg, &cfg, &cfg),
	} {
		if strings.Contains(printed, "s3cret") || strings.Contains(printed, "us3r") {
			t.Errorf("printed: %s", printed)
		}
	}
}

func TestParseRelays(t *testing.T) {
	t.Parallel()
	relays, err := sender.ParseRelays(" smtp://us3r:s3cret@a.example,smtps://us3r:s3cret@b.example?priority=1 ,\n\tsmtp://c.example?tls=none\n")
	if got, want := fmt.Sprint(relays), "[smtp://***@a.example:587 smtps://***@b.example:465?priority=1 smtp://c.example:25?tls=none]"; got != want || err != nil {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	_, err = sender.ParseRelays("smtp://a.example, smtp://us3r:s3,cret@b.example http://us3r:s3cret@c.example?x=s3cret smtp://d.example?rate=s3")
	for _, want := range []string{"relay URL 2: cannot be parsed", "% , in user name", "relay URL 3: the scheme", "relay URL 4: the scheme", "relay URL 4: unknown parameter", "relay URL 5: rate must"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if err == nil || strings.Contains(err.Error(), "s3") || strings.Contains(err.Error(), "cret") || strings.Contains(err.Error(), "URL 1") {
		t.Errorf("too much is in: %v", err)
	}
	if _, err := sender.ParseRelays(" , "); err == nil || err.Error() != "relay URL: there is none" {
		t.Errorf("no URL: %v", err)
	}
}
