package sender_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

func plainURL(box *mailbox.Server) string { return fmt.Sprintf("smtp://%s?tls=none", box.Addr()) }

// The truth about what a relay can do, row by row, on a real socket. kept says
// what the relay has in the end: it must be nothing where the outcome is deferred
// or rejected, because such a message may be sent again or is reported as failed.
func TestSend_tellsTheTruth(t *testing.T) {
	t.Parallel()
	const short = time.Second
	at := func(f mailbox.Fault) []mailbox.Fault { return []mailbox.Fault{f} }
	for name, test := range map[string]struct {
		faults  []mailbox.Fault
		url     string // default: plain
		outcome outbox.Outcome
		code    int
		refused bool
		kept    int
	}{
		"no fault": {outcome: outbox.Accepted, code: 250, kept: 1},

		"RCPT 550":           {faults: at(mailbox.Fault{At: mailbox.Rcpt, Reply: "550 5.1.1 no such user"}), outcome: outbox.Rejected, code: 550},
		"RCPT 450":           {faults: at(mailbox.Fault{At: mailbox.Rcpt, Reply: "450 4.2.0 greylisted"}), outcome: outbox.Deferred, code: 450},
		"RCPT 552":           {faults: at(mailbox.Fault{At: mailbox.Rcpt, Reply: "552 5.5.3 too many recipients"}), outcome: outbox.Deferred, code: 552},
		"RCPT 421, dropped":  {faults: at(mailbox.Fault{At: mailbox.Rcpt, Reply: "421 4.3.2 bye", Close: true}), outcome: outbox.Deferred, code: 421},
		"dropped at RCPT":    {faults: at(mailbox.Fault{At: mailbox.Rcpt, Close: true}), outcome: outbox.Deferred},
		"hangs at RCPT":      {faults: at(mailbox.Fault{At: mailbox.Rcpt, Hang: true}), outcome: outbox.Deferred},
		"dropped at MAIL":    {faults: at(mailbox.Fault{At: mailbox.MailFrom, Close: true}), outcome: outbox.Deferred},
		"hangs at MAIL":      {faults: at(mailbox.Fault{At: mailbox.MailFrom, Hang: true}), outcome: outbox.Deferred},
		"MAIL 451":           {faults: at(mailbox.Fault{At: mailbox.MailFrom, Reply: "451 4.3.0 later"}), outcome: outbox.Deferred, code: 451},
		"MAIL 530":           {faults: at(mailbox.Fault{At: mailbox.MailFrom, Reply: "530 5.7.0 log in"}), outcome: outbox.Deferred, code: 530, refused: true},
		"MAIL 550 5.7.1":     {faults: at(mailbox.Fault{At: mailbox.MailFrom, Reply: "550 5.7.1 not you"}), outcome: outbox.Deferred, code: 550, refused: true},
		"MAIL 552":           {faults: at(mailbox.Fault{At: mailbox.MailFrom, Reply: "552 5.3.4 too large"}), outcome: outbox.Rejected, code: 552},
		"DATA 554":           {faults: at(mailbox.Fault{At: mailbox.Data, Reply: "554 5.7.1 no"}), outcome: outbox.Rejected, code: 554},
		"DATA 451":           {faults: at(mailbox.Fault{At: mailbox.Data, Reply: "451 4.3.0 later"}), outcome: outbox.Deferred, code: 451},
		"dropped at DATA":    {faults: at(mailbox.Fault{At: mailbox.Data, Close: true}), outcome: outbox.Deferred},
		"hangs at DATA":      {faults: at(mailbox.Fault{At: mailbox.Data, Hang: true}), outcome: outbox.Deferred},
		"dropped at the dot": {faults: at(mailbox.Fault{At: mailbox.Dot, Close: true}), outcome: outbox.Unknown},
		"kept, dropped at the dot": {
			faults: at(mailbox.Fault{At: mailbox.Dot, Keep: true, Close: true}), outcome: outbox.Unknown, kept: 1},
		"hangs at the dot":     {faults: at(mailbox.Fault{At: mailbox.Dot, Hang: true}), outcome: outbox.Unknown},
		"dot 554":              {faults: at(mailbox.Fault{At: mailbox.Dot, Reply: "554 5.7.1 spam"}), outcome: outbox.Rejected, code: 554},
		"dot 451":              {faults: at(mailbox.Fault{At: mailbox.Dot, Reply: "451 4.7.1 later"}), outcome: outbox.Deferred, code: 451},
		"dot 451, multi-line":  {faults: at(mailbox.Fault{At: mailbox.Dot, Reply: "451 4.7.1 come\nlater", Close: true}), outcome: outbox.Deferred, code: 451},
		"dot answered late":    {faults: at(mailbox.Fault{At: mailbox.Dot, Delay: short / 2}), outcome: outbox.Accepted, code: 250, kept: 1},
		"greeting 554":         {faults: at(mailbox.Fault{At: mailbox.Greeting, Reply: "554 5.7.1 go away"}), outcome: outbox.Deferred, code: 554, refused: true},
		"greeting 421":         {faults: at(mailbox.Fault{At: mailbox.Greeting, Reply: "421 4.3.2 busy", Close: true}), outcome: outbox.Deferred, code: 421},
		"dropped at greeting":  {faults: at(mailbox.Fault{At: mailbox.Greeting, Close: true}), outcome: outbox.Deferred},
		"hangs at greeting":    {faults: at(mailbox.Fault{At: mailbox.Greeting, Hang: true}), outcome: outbox.Deferred},
		"EHLO 554":             {faults: at(mailbox.Fault{At: mailbox.EHLO, Reply: "554 5.7.1 go away"}), outcome: outbox.Deferred, code: 554, refused: true},
		"TLS is not offered":   {url: "smtp://%s", outcome: outbox.Deferred, refused: true},
		"AUTH is not offered":  {url: "smtp://ada:pencil@%s?tls=none", outcome: outbox.Deferred, refused: true},
		"nobody listens there": {url: "smtp://127.0.0.1:1?tls=none&%.0s", outcome: outbox.Deferred},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box := mailbox.Start(t, mailbox.Config{Faults: test.faults})
			url := plainURL(box)
			if test.url != "" {
				url = fmt.Sprintf(test.url, box.Addr())
			}
			email := newEmail(t, url, func(c *sender.EmailConfig) {
				c.Timeouts = sender.Timeouts{Greeting: short, Command: short, Data: short, Block: short, Dot: short}
			})
			var h handovers
			reply, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
			wantOutcome(t, err, test.outcome)
			if reply.Code != test.code || errors.Is(err, sender.ErrRefused) != test.refused {
				t.Errorf("the reply is %+v, the error %v; want code %d, refused %t", reply, err, test.code, test.refused)
			}
			if atDot := strings.Contains(name, "dot") || test.kept > 0; atDot != (h.count() == 1) || h.count() > 1 {
				t.Errorf("handover was called %d times", h.count())
			}
			if got := len(box.Mails("")); got != test.kept {
				t.Errorf("the relay has kept %d mails, want %d", got, test.kept)
			}
			_ = email.Close()
			waitUntilClosed(t, box)
		})
	}
}

// waitUntilClosed waits until the relay sees no open connection.
func waitUntilClosed(t *testing.T, box *mailbox.Server) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		if box.Open() == 0 {
			tick.Stop()
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d connections are still open", box.Open())
		}
	}
}

// F1, with the relay that the experiments used: the body ends, the dot does not
// come, and nothing is delivered.
func TestSend_F1_aMailWithoutItsDotIsNotDelivered(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{})
	email := newEmail(t, plainURL(box))
	errHandover := errors.New("lost the right to send")
	h := handovers{err: errHandover}
	_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
	wantOutcome(t, err, outbox.Deferred)
	if !errors.Is(err, errHandover) {
		t.Errorf("%v", err)
	}
	waitUntilClosed(t, box)
	if mails := box.Mails(""); len(mails) != 0 {
		t.Errorf("delivered:\n%s", mails[0].Raw)
	}
	_ = send(t, email, outbox.Accepted) // the slot is free again
}

// A body that the relay does not take: no handover, or an unambiguous end.
func TestSend_droppedInTheBody(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	box := mailbox.Start(t, mailbox.Config{Faults: []mailbox.Fault{{At: mailbox.Body, Close: true, Do: func() { close(gone) }}}})
	email := newEmail(t, plainURL(box))
	h := handovers{do: func() { <-gone }}
	_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
	if outcome := outbox.OutcomeOf(err); outcome != outbox.Deferred && outcome != outbox.Unknown {
		t.Errorf("the outcome is %s: %v", outcome, err)
	}
	if len(box.Mails("")) != 0 {
		t.Error("it was delivered")
	}
}

// F2: RSET and QUIT have no say in it.
func TestSend_F2_failuresAfter250ChangeNothing(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]mailbox.Fault{
		"RSET refused": {At: mailbox.Rset, Reply: "500 5.5.1 what?"},
		"RSET dropped": {At: mailbox.Rset, Close: true},
		"QUIT dropped": {At: mailbox.Quit, Close: true},
		"QUIT refused": {At: mailbox.Quit, Reply: "500 5.5.1 no"},
		"QUIT hangs":   {At: mailbox.Quit, Hang: true},
		"250 and gone": {At: mailbox.Dot, Keep: true, Reply: "250 2.0.0 ok", Close: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box := mailbox.Start(t, mailbox.Config{Faults: []mailbox.Fault{
				fault, {At: mailbox.Rcpt, To: "nobody", Reply: "550 5.1.1 no such user"},
			}})
			email := newEmail(t, plainURL(box), func(c *sender.EmailConfig) { c.MaxPerConnection = 3 })
			for range 3 {
				_ = send(t, email, outbox.Accepted)
				var h handovers
				_, err := email.Send(t.Context(), invitation("nobody@example.com"), h.record)
				wantOutcome(t, err, outbox.Rejected)
			}
			_ = email.Close()
			if got := len(box.Mails("")); got != 3 {
				t.Errorf("the relay has kept %d mails, want 3", got)
			}
		})
	}
}

func TestSend_encryptsAndLogsIn(t *testing.T) {
	t.Parallel()
	server, client := certificate(t)
	users := map[string]string{"ada@example.com": "p/e:n@c#il"}
	const credentials = "ada%%40example.com:p%%2Fe%%3An%%40c%%23il@"
	for name, test := range map[string]struct {
		config mailbox.Config
		url    string
	}{
		"STARTTLS, the best mechanism": {mailbox.Config{TLS: server, Users: users}, "smtp://" + credentials + "%s"},
		"STARTTLS, SCRAM-SHA-256":      {mailbox.Config{TLS: server, Users: users}, "smtp://" + credentials + "%s?auth=scram-sha-256"},
		"STARTTLS, PLAIN":              {mailbox.Config{TLS: server, Users: users}, "smtp://" + credentials + "%s?auth=plain"},
		"STARTTLS, LOGIN":              {mailbox.Config{TLS: server, Users: users}, "smtp://" + credentials + "%s?auth=login"},
		"TLS, PLAIN":                   {mailbox.Config{TLS: server, ImplicitTLS: true, Users: users}, "smtps://" + credentials + "%s?auth=plain"},
		"TLS, SCRAM-SHA-256":           {mailbox.Config{TLS: server, ImplicitTLS: true, Users: users}, "smtps://" + credentials + "%s"},
		"plaintext, SCRAM-SHA-256":     {mailbox.Config{Users: users}, "smtp://" + credentials + "%s?tls=none"},
		"STARTTLS, no login":           {mailbox.Config{TLS: server}, "smtp://%s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box := mailbox.Start(t, test.config)
			email := newEmail(t, fmt.Sprintf(test.url, box.Addr()), trusting(client))
			for range 2 {
				_ = send(t, email, outbox.Accepted)
			}
			if got := box.Connections(); got != 1 {
				t.Errorf("there were %d connections", got)
			}
			_ = email.Close()
			waitUntilClosed(t, box)
		})
	}
	for _, mechanism := range []string{"plain", "login", "scram-sha-256"} {
		t.Run("wrong password, "+mechanism, func(t *testing.T) {
			t.Parallel()
			box := mailbox.Start(t, mailbox.Config{TLS: server, Users: users})
			email := newEmail(t, fmt.Sprintf("smtp://ada:wrong@%s?auth=%s", box.Addr(), mechanism), trusting(client))
			if err := send(t, email, outbox.Deferred); !errors.Is(err, sender.ErrRefused) {
				t.Errorf("%v", err)
			}
			waitUntilClosed(t, box)
		})
	}
}

// A dial that fails after the TCP connect leaves no socket behind.
func TestSend_leaksNoConnectionWhenTheHandshakeFails(t *testing.T) {
	t.Parallel()
	server, _ := certificate(t)
	for name, test := range map[string]struct {
		config mailbox.Config
		url    string
	}{
		"no STARTTLS":         {mailbox.Config{}, "smtp://%s"},
		"unknown certificate": {mailbox.Config{TLS: server}, "smtp://%s"},
		"unknown certificate of smtps": {
			mailbox.Config{TLS: server, ImplicitTLS: true}, "smtps://%s"},
		"TLS to a plain port": {mailbox.Config{}, "smtps://%s"},
		"plain to a TLS port": {mailbox.Config{TLS: server, ImplicitTLS: true}, "smtp://%s?tls=none"},
		"no AUTH":             {mailbox.Config{}, "smtp://ada:pencil@%s?tls=none"},
		"wrong password":      {mailbox.Config{Users: map[string]string{"x": "y"}}, "smtp://ada:pencil@%s?tls=none"},
		"refused": {mailbox.Config{Faults: []mailbox.Fault{{At: mailbox.Greeting, Reply: "554 no"}}},
			"smtp://%s?tls=none"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box := mailbox.Start(t, test.config)
			const short = time.Second
			email := newEmail(t, fmt.Sprintf(test.url, box.Addr()), func(c *sender.EmailConfig) {
				c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
				c.Timeouts = sender.Timeouts{Connect: short, Greeting: short, Command: short}
				c.BreakerMin, c.BreakerMax = time.Nanosecond, time.Nanosecond
			})
			for range 5 {
				_ = send(t, email, outbox.Deferred)
			}
			waitUntilClosed(t, box)
		})
	}
}

func TestSend_deliversTheSameBytesOnARetry(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{Faults: []mailbox.Fault{{At: mailbox.Dot, Keep: true, Close: true, Times: 1}}})
	email := newEmail(t, plainURL(box))
	_ = send(t, email, outbox.Unknown)
	_ = send(t, email, outbox.Accepted)
	mails := box.Mails("ada@example.com")
	if len(mails) != 2 || !bytes.Equal(mails[0].Raw, mails[1].Raw) || mails[0].MessageID != mails[1].MessageID {
		t.Errorf("there are %d mails, or they differ", len(mails))
	}
	if want := compose(t, invitation("ada@example.com")); len(mails) > 0 && !bytes.Equal(mails[0].Raw, want) {
		t.Errorf("the relay got\n%s\nwant\n%s", mails[0].Raw, want)
	}
}

func TestSend_manyAtATimeEachOnce(t *testing.T) {
	t.Parallel()
	const messages, size = 300, 4
	server, client := certificate(t)
	box := mailbox.Start(t, mailbox.Config{TLS: server, Faults: []mailbox.Fault{
		{At: mailbox.Rcpt, To: "nobody", Reply: "550 5.1.1 no such user"},
		{At: mailbox.MailFrom, Reply: "421 4.3.2 bye", Close: true, Times: 5},
	}})
	email := newEmail(t, "smtp://"+box.Addr(), trusting(client), func(c *sender.EmailConfig) {
		c.Connections, c.MaxPerConnection = size, 20
		c.BreakerMin, c.BreakerMax = 5*time.Millisecond, 5*time.Millisecond
	})
	var wg sync.WaitGroup
	for n := range messages {
		wg.Go(func() {
			to := fmt.Sprintf("ada%d@example.com", n)
			if n%10 == 0 {
				to = fmt.Sprintf("nobody%d@example.com", n)
			}
			for {
				var h handovers
				_, err := email.Send(t.Context(), invitation(to), h.record)
				comeBack(err)
				if outcome := outbox.OutcomeOf(err); outcome == outbox.Accepted && n%10 != 0 || outcome == outbox.Rejected && n%10 == 0 {
					return
				} else if outcome != outbox.Deferred {
					t.Errorf("%s is %s: %v", to, outcome, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for n := range messages {
		want := 1
		if n%10 == 0 {
			want = 0
		}
		if got := len(box.Mails(fmt.Sprintf("ada%d@example.com", n))); got != want {
			t.Errorf("message %d arrived %d times", n, got)
		}
	}
	_ = email.Close()
	waitUntilClosed(t, box)
}
