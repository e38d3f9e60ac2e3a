package mailbox_test

import (
	"crypto/tls"
	"errors"
	"net"
	"net/textproto"
	"slices"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/sender/mailbox"
)

func TestFaults_actAtEveryPhase(t *testing.T) {
	t.Parallel()
	const gone = "EOF"
	ehlo := []string{"", "220", "EHLO test", "250"}
	mail := slices.Concat(ehlo, []string{"MAIL FROM:<a@example.com>", "250"})
	rcpt := slices.Concat(mail, []string{"RCPT TO:<b@example.com>", "250"})
	data := slices.Concat(rcpt, []string{"DATA", "354"})
	for name, c := range map[string]struct {
		fault    mailbox.Fault
		dialogue []string
		kept     int
	}{
		"greeting":                {mailbox.Fault{At: mailbox.Greeting, Reply: "554 no service", Close: true}, []string{"", "554 no service", "", gone}, 0},
		"greeting 421":            {mailbox.Fault{At: mailbox.Greeting, Reply: "421 4.3.2 busy", Close: true, Times: 1}, []string{"", "421 4.3.2 busy", "", gone}, 0},
		"EHLO":                    {mailbox.Fault{At: mailbox.EHLO, Reply: "554 5.7.1 go away"}, []string{"", "220", "EHLO test", "554 5.7.1 go away"}, 0},
		"MAIL closed":             {mailbox.Fault{At: mailbox.MailFrom, Close: true}, append(ehlo[:4:4], "MAIL FROM:<a@example.com>", gone), 0},
		"RCPT 550":                {mailbox.Fault{At: mailbox.Rcpt, Reply: "550 5.1.1 no such user"}, append(mail[:6:6], "RCPT TO:<b@example.com>", "550 5.1.1 no such user", "RSET", "250"), 0},
		"RCPT without enhanced":   {mailbox.Fault{At: mailbox.Rcpt, Reply: "450 busy"}, append(mail[:6:6], "RCPT TO:<b@example.com>", "450 busy"), 0},
		"RCPT multi-line":         {mailbox.Fault{At: mailbox.Rcpt, Reply: "550 5.1.1 no\nsuch user"}, append(mail[:6:6], "RCPT TO:<b@example.com>", "550 5.1.1 no|such user"), 0},
		"RCPT of another":         {mailbox.Fault{At: mailbox.Rcpt, To: "c@", Reply: "550 5.1.1 no such user"}, append(data[:10:10], content, "250"), 1},
		"DATA":                    {mailbox.Fault{At: mailbox.Data, Reply: "451 4.3.0 later\nmuch later"}, append(rcpt[:8:8], "DATA", "451 4.3.0 later|much later", "RSET", "250"), 0},
		"body closed":             {mailbox.Fault{At: mailbox.Body, Close: true}, append(data[:10:10], content, ""), 0},
		"dot refused":             {mailbox.Fault{At: mailbox.Dot, Reply: "554 5.6.0 spam"}, append(data[:10:10], content, "554 5.6.0 spam", "QUIT", "221"), 0},
		"dot multi-line":          {mailbox.Fault{At: mailbox.Dot, Reply: "554 5.6.0 spam\nand more"}, append(data[:10:10], content, "554 5.6.0 spam|and more"), 0},
		"dot closed":              {mailbox.Fault{At: mailbox.Dot, Close: true}, append(data[:10:10], content, gone), 0},
		"dot closed, kept":        {mailbox.Fault{At: mailbox.Dot, Close: true, Keep: true}, append(data[:10:10], content, gone), 1},
		"dot answered and closed": {mailbox.Fault{At: mailbox.Dot, Reply: "250 2.0.0 taken", Close: true, Keep: true}, append(data[:10:10], content, "250 2.0.0 taken", "", gone), 1},
		"RSET":                    {mailbox.Fault{At: mailbox.Rset, Reply: "500 what"}, append(data[:10:10], content, "250", "RSET", "500 what", "RSET", "500 what"), 1},
		"QUIT in the content":     {mailbox.Fault{At: mailbox.Quit, Close: true}, append(data[:10:10], "Subject: x\r\n\r\nbare line feed\n.\r\nQUIT\r\n.", "250"), 1},
		"QUIT":                    {mailbox.Fault{At: mailbox.Quit, Close: true}, append(data[:10:10], content, "250", "QUIT", gone), 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box := mailbox.Start(t, mailbox.Config{Faults: []mailbox.Fault{c.fault}})
			dial(t, box).expect(c.dialogue...)
			if kept := len(box.Mails("")); kept != c.kept {
				t.Errorf("kept %d mails, want %d", kept, c.kept)
			}
		})
	}
}

func TestFaults_hangUntilTheClientGivesUp(t *testing.T) {
	t.Parallel()
	fired := make(chan struct{})
	box := mailbox.Start(t, mailbox.Config{Faults: []mailbox.Fault{{At: mailbox.Dot, Hang: true, Keep: true, Times: 1, Do: func() { close(fired) }}}})
	c := dial(t, box)
	c.envelope("b@example.com")
	if err := c.PrintfLine("%s", content); err != nil {
		t.Fatal(err)
	}
	<-fired
	if err := c.raw.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadLine(); !isTimeout(err) {
		t.Errorf("it answered: %v", err)
	}
	_ = c.raw.Close()
	again := dial(t, box)
	again.envelope("b@example.com")
	again.expect(content, "250")
	if kept := len(box.Mails("")); kept != 2 {
		t.Errorf("kept %d mails", kept)
	}
}

func TestFaults_takeNoPasswordForACommand(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{Users: map[string]string{"QUIT": "RSET"}, Faults: []mailbox.Fault{{At: mailbox.Quit, Close: true}, {At: mailbox.Rset, Close: true}}})
	dial(t, box).expect("", "220", "EHLO test", "250", "AUTH LOGIN", "334", "QUIT", "334", "RSET", "535", "MAIL FROM:<a@example.com>", "530", "QUIT", "EOF")
}

func TestFaults_actUnderEncryptionToo(t *testing.T) {
	t.Parallel()
	certificate, pool := selfSigned(t)
	for _, implicit := range []bool{false, true} {
		box := mailbox.Start(t, mailbox.Config{
			TLS: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}, ImplicitTLS: implicit,
			Faults: []mailbox.Fault{
				{At: mailbox.Data, Reply: "451 4.3.0 later", Times: 1},
				{At: mailbox.Rset, Reply: "500 what", Times: 1},
				{At: mailbox.Quit, Reply: "500 stay"},
			},
		})
		c := dial(t, box)
		if implicit {
			c.Conn = textproto.NewConn(tls.Client(c.raw, &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}))
			c.expect("", "220")
		} else {
			c.expect("", "220", "EHLO test", "250")
			c.startTLS(pool, "STARTTLS")
		}
		c.expect("EHLO test", "250", "MAIL FROM:<a@example.com>", "250", "RCPT TO:<b@example.com>", "250", "DATA", "451 4.3.0 later",
			"RSET", "500 what", "DATA", "354", content, "250", "QUIT", "500 stay")
		if kept := len(box.Mails("")); kept != 1 {
			t.Errorf("implicit %v: kept %d mails", implicit, kept)
		}
	}
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

func TestDemoFaults_areChosenByRecipient(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{DemoFaults: true})
	c := dial(t, box)
	c.expect("", "220", "EHLO test", "250", "MAIL FROM:<a@example.com>", "250",
		"RCPT TO:<Bounce.me@example.com>", "550 5.1.1",
		"RCPT TO:<greylist@example.com>", "451 4.7.1", "RCPT TO:<greylist2@example.com>", "451 4.7.1",
		"RCPT TO:<greylist@example.com>", "250", "DATA", "354", content, "250",
		"MAIL FROM:<a@example.com>", "250", "RCPT TO:<drop@example.com>", "250", "DATA", "354", content, "EOF")
	if kept := len(box.Mails("")); kept != 2 {
		t.Errorf("kept %d mails", kept)
	}
}

func TestDemoFaults_slowIsTakenAfterFiveSeconds(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{DemoFaults: true})
	c := dial(t, box)
	c.envelope("slow@example.com")
	began := time.Now()
	c.expect(content, "250 2.0.0")
	if took := time.Since(began); took < 5*time.Second || len(box.Mails("slow@example.com")) != 1 {
		t.Errorf("answered after %v, kept %d mails", took, len(box.Mails("")))
	}
}
