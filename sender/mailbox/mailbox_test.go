package mailbox_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mailcrane/mailcrane/sender/mailbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client speaks SMTP by hand.
type client struct {
	t *testing.T
	*textproto.Conn
	raw net.Conn
}

func dial(t *testing.T, box *mailbox.Server) *client {
	t.Helper()
	raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", box.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	if err := raw.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &client{t, textproto.NewConn(raw), raw}
}

// reply reads one reply as one line: "250 OK", or the error that came instead.
func (c *client) reply() string {
	code, text, err := c.ReadResponse(0)
	if protocol, ok := errors.AsType[*textproto.Error](err); ok {
		return fmt.Sprintf("%d %s", protocol.Code, strings.ReplaceAll(protocol.Msg, "\n", "|"))
	}
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", code, strings.ReplaceAll(text, "\n", "|"))
}

func (c *client) say(line string) string {
	c.t.Helper()
	if err := c.PrintfLine("%s", line); err != nil {
		return err.Error()
	}
	return c.reply()
}

// expect goes through a dialogue: what is said, and how the answer begins.
func (c *client) expect(dialogue ...string) {
	c.t.Helper()
	for i := 0; i < len(dialogue); i += 2 {
		got := ""
		if dialogue[i] == "" {
			got = c.reply()
		} else {
			got = c.say(dialogue[i])
		}
		if !strings.HasPrefix(got, dialogue[i+1]) {
			c.t.Fatalf("%q was answered by %q, want %q", dialogue[i], got, dialogue[i+1])
		}
	}
}

const content = "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <1@x>\r\n\r\nHello\r\nRSET\r\n..dot\r\n."

func (c *client) envelope(to string) {
	c.t.Helper()
	c.expect("", "220", "EHLO test", "250", "MAIL FROM:<a@example.com>", "250", "RCPT TO:<"+to+">", "250", "DATA", "354")
}

func TestServer_keepsWhatItAccepts(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{})
	c := dial(t, box)
	c.envelope("b@example.com")
	c.expect(content, "250", "RSET", "250", "QUIT", "221")
	mails, err := box.Wait(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	m := mails[0]
	if m.Subject != "Grüße" || m.MessageID != "1@x" || m.Text != "Hello\r\nRSET\r\n.dot\r\n" || m.From != "a@example.com" || m.To[0] != "b@example.com" {
		t.Errorf("got %+v", m)
	}
	if len(box.Mails("B@example.com")) != 1 || len(box.Mails("c@example.com")) != 0 || box.Connections() != 1 {
		t.Error("cannot be found by recipient")
	}
	box.Delete()
	if len(box.Mails("")) != 0 {
		t.Error("not deleted")
	}
}

func TestServer_keepsNothingOfAMailThatWasCutOff(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{})
	for _, body := range []string{"", "Subject: x\r\n", "Subject: x\r\n\r\nHello\r\n", "Subject: x\r\n\r\nHello\r\n.", "Subject: x\r\n\r\nHello\n.\n"} {
		c := dial(t, box)
		c.envelope("b@example.com")
		if _, err := io.WriteString(c.raw, body); err != nil {
			t.Fatal(err)
		}
		_ = c.raw.Close()
	}
	c := dial(t, box) // one that comes through, so that the others had their time
	c.envelope("last@example.com")
	c.expect(content, "250")
	eventually(t, func() bool { return box.Open() == 1 })
	if mails := box.Mails(""); len(mails) != 1 || mails[0].To[0] != "last@example.com" {
		t.Errorf("kept %d mails", len(mails))
	}
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to that")
		}
		<-ticker.C
	}
}

func TestServer_isBounded(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]mailbox.Config{"mails": {Capacity: 3}, "bytes": {MaxBytes: 3 * int64(len(content))}} {
		box := mailbox.Start(t, config)
		c := dial(t, box)
		c.expect("", "220", "EHLO test", "250")
		for i := range 5 {
			c.expect("MAIL FROM:<a@example.com>", "250", fmt.Sprintf("RCPT TO:<u%d@example.com>", i), "250", "DATA", "354", content, "250")
		}
		mails, err := box.Wait(t.Context(), 5)
		if err != nil || len(mails) != 3 || mails[0].To[0] != "u2@example.com" || mails[0].ID != "3" {
			t.Errorf("%s: kept %d mails, the first to %s (%v)", name, len(mails), mails[0].To, err)
		}
	}
}

func TestServer_pipelinedCommandsAreAnsweredInOrder(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{Faults: []mailbox.Fault{{At: mailbox.Data, Reply: "451 later", Times: 1}}})
	c := dial(t, box)
	c.expect("", "220", "EHLO test", "250",
		"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA", "250", "", "250", "", "451",
		"RSET\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA", "250", "", "250", "", "250", "", "354",
		content+"\r\nQUIT", "250", "", "221")
}

func TestServer_encrypts(t *testing.T) {
	t.Parallel()
	certificate, pool := selfSigned(t)
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	trust := &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	for _, implicit := range []bool{false, true} {
		box := mailbox.Start(t, mailbox.Config{TLS: config, ImplicitTLS: implicit})
		c := dial(t, box)
		if !implicit {
			c.expect("", "220", "EHLO test", "250", "STARTTLS", "220")
		}
		encrypted := tls.Client(c.raw, trust)
		c.Conn = textproto.NewConn(encrypted)
		if implicit {
			c.expect("", "220")
		}
		c.expect("EHLO test", "250", "MAIL FROM:<a@example.com>", "250", "RCPT TO:<b@example.com>", "250", "DATA", "354", content, "250", "QUIT", "221")
		if len(box.Mails("")) != 1 {
			t.Error("nothing was kept")
		}
	}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestServer_requiresLoginWhenItHasUsers(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{Users: map[string]string{"ada": "secret"}})
	dial(t, box).expect("", "220", "EHLO test", "250", "MAIL FROM:<a@example.com>", "530")
	dial(t, box).expect("", "220", "EHLO test", "250", "AUTH PLAIN AGFkYQBzZWNyZXQ=", "235", "MAIL FROM:<a@example.com>", "250")
	dial(t, box).expect("", "220", "EHLO test", "250", "AUTH PLAIN AGFkYQB3cm9uZw==", "535")
	dial(t, box).expect("", "220", "EHLO test", "250", "AUTH LOGIN", "334", "YWRh", "334", "c2VjcmV0", "235", "MAIL FROM:<a@example.com>", "250")
	dial(t, box).expect("", "220", "EHLO test", "250", "AUTH LOGIN", "334", "YWRh", "334", "d3Jvbmc=", "535")
	refusing := mailbox.Start(t, mailbox.Config{Users: map[string]string{"ada": "secret"}, Faults: []mailbox.Fault{{At: mailbox.Auth, Reply: "535 5.7.8 no"}}})
	dial(t, refusing).expect("", "220", "EHLO test", "250", "AUTH PLAIN AGFkYQBzZWNyZXQ=", "535 5.7.8 no")
}

func TestClose_endsAServerThatHasHardlyBegun(t *testing.T) {
	t.Parallel()
	for range 500 {
		box, err := mailbox.Listen(mailbox.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := box.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClose_mayBeCalledAgain(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{}) // which closes it once more at the end
	for range 2 {
		if err := box.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestServer_announcesWhatItCanDo(t *testing.T) {
	t.Parallel()
	certificate, _ := selfSigned(t)
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	plain, secure := mailbox.Start(t, mailbox.Config{}), mailbox.Start(t, mailbox.Config{TLS: config, Users: map[string]string{"ada": "secret"}})
	c := dial(t, plain)
	c.expect("", "220", "EHLO test", "250 Hello test|PIPELINING|8BITMIME|ENHANCEDSTATUSCODES|SIZE 26214400",
		"STARTTLS", "502", "MAIL FROM:<a@example.com> SIZE=26214401", "552")
	dial(t, secure).expect("", "220", "EHLO test", "250 Hello test|STARTTLS|PIPELINING|8BITMIME|ENHANCEDSTATUSCODES|AUTH PLAIN LOGIN SCRAM-SHA-256|SIZE 26214400")
}

func TestServer_forgetsWhatWasSaidBeforeSTARTTLS(t *testing.T) {
	t.Parallel()
	certificate, pool := selfSigned(t)
	box := mailbox.Start(t, mailbox.Config{TLS: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}})
	c := dial(t, box)
	c.expect("", "220", "EHLO test", "250")
	c.startTLS(pool, "STARTTLS\r\nRSET") // RSET came unprotected, and gets no answer
	c.expect("MAIL FROM:<a@example.com>", "503", "NOOP", "250", "MAIL FROM:<a@example.com>", "503", "EHLO test", "250 Hello test|PIPELINING", "MAIL FROM:<a@example.com>", "250", "STARTTLS", "502")
}

// startTLS says the command, and goes on encrypted.
func (c *client) startTLS(trusted *x509.CertPool, command string) {
	c.t.Helper()
	c.expect(command, "220")
	encrypted := tls.Client(c.raw, &tls.Config{RootCAs: trusted, ServerName: "localhost", MinVersion: tls.VersionTLS12})
	c.Conn = textproto.NewConn(encrypted)
}

func TestWait_saysHowManyHaveCome(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := box.Wait(ctx, 1); err == nil || !strings.Contains(err.Error(), "0 of 1") {
		t.Error(err)
	}
}
