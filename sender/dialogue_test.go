package sender_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
)

func TestSend_saysNothingThatIsNotAdvertised(t *testing.T) {
	t.Parallel()
	for name, extensions := range map[string][]string{
		"plain": nil, "everything": {"SIZE 1000000", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "PIPELINING"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, func(_ int, s *session) {
				s.greet(extensions...)
				s.envelope()
				s.dot()
				s.say("250 2.0.0 queued as 1")
			})
			email := newEmail(t, p.url())
			m := invitation("ada@bücher.example")
			data, err := email.Compose(m)
			if err != nil {
				t.Fatal(err)
			}
			var h handovers
			reply, err := email.Send(t.Context(), m, h.record)
			wantOutcome(t, err, outbox.Accepted)
			want := outbox.Reply{Relay: p.listener.Addr().String(), Code: 250, Enhanced: "2.0.0", Text: "queued as 1"}
			if reply != want {
				t.Errorf("the reply is %+v, want %+v", reply, want)
			}
			if len(h.relays) != 1 || h.relays[0] != want.Relay {
				t.Errorf("handover was called with %q", h.relays)
			}
			_ = email.Close()
			size := ""
			if extensions != nil {
				size = " SIZE=" + strconv.Itoa(len(data))
			}
			wantLog := "EHLO client.example.com\r\nMAIL FROM:<club@example.com>" + size +
				"\r\nRCPT TO:<ada@xn--bcher-kva.example>\r\nDATA\r\n" + string(data) + ".\r\nQUIT\r\n"
			if got := p.stop(); len(got) != 1 || got[0] != wantLog {
				t.Errorf("the relay got\n%q\nwant\n%q", got, wantLog)
			}
		})
	}
}

// F1: nothing but an explicit dot may end the data. Whatever goes wrong before,
// the relay sees a line cut off, and neither QUIT nor a dot.
func TestSend_F1_neverEndsTheDataAfterAFailure(t *testing.T) {
	t.Parallel()
	errHandover := errors.New("no right to send")
	for name, test := range map[string]struct {
		script   func(*session)
		recorded error // what handover says
		timeouts sender.Timeouts
		outcome  outbox.Outcome
		wrapped  error
	}{
		"handover fails": {
			script:   func(s *session) { s.greet(); s.envelope(); s.body() },
			recorded: errHandover,
			outcome:  outbox.Deferred,
			wrapped:  errHandover,
		},
		"no go-ahead for DATA": {
			script: func(s *session) {
				s.greet()
				s.hear()
				s.say("250 ok")
				s.hear()
				s.say("250 ok")
				s.hear()
			},
			timeouts: sender.Timeouts{Data: 50 * time.Millisecond},
			outcome:  outbox.Deferred,
		},
		"421 in the body": {
			script:  func(s *session) { s.greet(); s.envelope(); s.body(); s.say("421 4.3.2 shutting down") },
			outcome: outbox.Deferred,
		},
		"552 in the body": {
			script:  func(s *session) { s.greet(); s.envelope(); s.body(); s.say("552 5.3.4 too large") },
			outcome: outbox.Rejected,
		},
		"250 before the dot": {
			script:  func(s *session) { s.greet(); s.envelope(); s.body(); s.say("250 you wish") },
			outcome: outbox.Deferred,
		},
		"250 to DATA": {
			script: func(s *session) {
				s.greet()
				s.hear()
				s.say("250 ok")
				s.hear()
				s.say("250 ok")
				s.hear()
				s.say("250 ok")
			},
			outcome: outbox.Deferred,
		},
		"354 to DATA without a recipient": {
			script: func(s *session) {
				s.greet("PIPELINING")
				s.hear()
				s.say("250 ok")
				s.hear()
				s.say("550 5.1.1 no such user")
				s.hear()
				s.say("354 go ahead")
			},
			outcome: outbox.Rejected,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spoken := make(chan struct{})
			p := startPeer(t, func(_ int, s *session) {
				test.script(s)
				close(spoken)
			})
			email := newEmail(t, p.url(), func(c *sender.EmailConfig) { c.Timeouts = test.timeouts })
			// The peer's last words must have arrived when handover returns.
			h := handovers{err: test.recorded, do: func() { <-spoken }}
			_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
			wantOutcome(t, err, test.outcome)
			if test.wrapped != nil && !errors.Is(err, test.wrapped) {
				t.Errorf("%v does not wrap %v", err, test.wrapped)
			}
			_ = email.Close()
			for _, log := range p.stop() {
				if strings.Contains(log, "\r\n.\r\n") || strings.Contains(log, "QUIT") {
					t.Errorf("the relay got:\n%s", log)
				}
			}
		})
	}
}

// After the dot only a reply that can be read counts.
func TestSend_anUnreadableAnswerToTheDotIsUnknown(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer  func(*session)
		outcome outbox.Outcome
		code    int
	}{
		"hung up":           {func(s *session) { s.hangUp() }, outbox.Unknown, 0},
		"garbage":           {func(s *session) { s.say("\x15\x03\x03 what?") }, outbox.Unknown, 0},
		"half a reply":      {func(s *session) { s.say("250-ok"); s.hangUp() }, outbox.Unknown, 0},
		"changing codes":    {func(s *session) { s.say("250-ok", "550 no") }, outbox.Unknown, 0},
		"endless reply":     {func(s *session) { s.say(strings.Repeat("250-ok\r\n", 1000)) }, outbox.Unknown, 0},
		"endless line":      {func(s *session) { s.say("250 " + strings.Repeat("x", 1<<17)) }, outbox.Unknown, 0},
		"354":               {func(s *session) { s.say("354 more") }, outbox.Unknown, 354},
		"199":               {func(s *session) { s.say("199 hm") }, outbox.Unknown, 199},
		"silence":           {func(*session) {}, outbox.Unknown, 0},
		"250 of many lines": {func(s *session) { s.say("250-2.0.0 a", "250 2.0.0 b") }, outbox.Accepted, 250},
		"250 and hung up":   {func(s *session) { s.say("250 ok"); s.hangUp() }, outbox.Accepted, 250},
		"554":               {func(s *session) { s.say("554 5.7.1 spam") }, outbox.Rejected, 554},
		"451 and hung up":   {func(s *session) { s.say("451 later"); s.hangUp() }, outbox.Deferred, 451},
		"421":               {func(s *session) { s.say("421 bye") }, outbox.Deferred, 421},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, func(_ int, s *session) {
				s.greet()
				s.envelope()
				s.dot()
				test.answer(s)
			})
			email := newEmail(t, p.url(), func(c *sender.EmailConfig) { c.Timeouts.Dot = time.Second })
			var h handovers
			reply, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
			wantOutcome(t, err, test.outcome)
			if reply.Code != test.code || reply.Relay == "" || h.count() != 1 {
				t.Errorf("reply %+v, %d handovers", reply, h.count())
			}
			_ = email.Close()
			if logs := p.stop(); len(logs) != 1 {
				t.Errorf("there were %d connections", len(logs))
			}
		})
	}
}

// A relay that hangs up while the attempt is being recorded has not accepted
// anything: that is no unknown, and the dot is not sent.
func TestSend_hangUpDuringHandoverIsNotUnknown(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	p := startPeer(t, func(_ int, s *session) {
		s.greet()
		s.envelope()
		s.body()
		s.hangUp()
		close(gone)
	})
	email := newEmail(t, p.url())
	h := handovers{do: func() { <-gone }}
	_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
	wantOutcome(t, err, outbox.Deferred)
}

func TestSend_givesUpWhenTheContextEndsBeforeHandover(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]func(*session){
		"greeting": func(*session) {},
		"EHLO":     func(s *session) { s.say("220 peer"); s.hear() },
		"MAIL":     func(s *session) { s.greet(); s.hear() },
		"RCPT":     func(s *session) { s.greet(); s.hear(); s.say("250 ok"); s.hear() },
		"DATA": func(s *session) {
			s.greet()
			s.hear()
			s.say("250 ok")
			s.hear()
			s.say("250 ok")
			s.hear()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			errStop := errors.New("stop")
			ctx, cancel := context.WithCancelCause(t.Context())
			p := startPeer(t, func(_ int, s *session) {
				script(s)
				cancel(errStop)
			})
			email := newEmail(t, p.url())
			_, err := email.Send(ctx, invitation("ada@example.com"), noHandover(t))
			wantOutcome(t, err, outbox.Deferred)
			if !errors.Is(err, errStop) {
				t.Errorf("%v does not say why", err)
			}
			p.stop() // returns only when the socket is closed
		})
	}
}

func TestSend_waitsForTheAnswerThoughTheContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	p := startPeer(t, func(_ int, s *session) {
		s.greet()
		s.envelope()
		s.dot()
		cancel()
		s.say("250 ok")
	})
	var h handovers
	email := newEmail(t, p.url())
	_, err := email.Send(ctx, invitation("ada@example.com"), h.record)
	wantOutcome(t, err, outbox.Accepted)

	// Ended during handover: the record is made, so the dot is sent.
	ctx, cancel = context.WithCancel(t.Context())
	p = startPeer(t, func(_ int, s *session) { s.greet(); s.envelope(); s.dot(); s.say("250 ok") })
	h = handovers{do: cancel}
	_, err = newEmail(t, p.url()).Send(ctx, invitation("ada@example.com"), h.record)
	wantOutcome(t, err, outbox.Accepted)
}

func TestSend_withAnEndedContextDoesNothing(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(int, *session) {})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := newEmail(t, p.url()).Send(ctx, invitation("ada@example.com"), noHandover(t))
	wantOutcome(t, err, outbox.Deferred)
}

// What the relay says before the dot is no answer to it, and there is nothing to
// record any more.
func TestSend_isNotHandedOverAfterTheRelaySpokeOutOfTurn(t *testing.T) {
	t.Parallel()
	for words, outcome := range map[string]outbox.Outcome{
		"552 5.3.4 too large": outbox.Rejected, "421 bye": outbox.Deferred, "250 you wish": outbox.Deferred, "what?": outbox.Deferred,
	} {
		p := startPeer(t, func(_ int, s *session) {
			s.greet()
			s.hear()
			s.say("250 ok")
			s.hear()
			s.say("250 ok")
			s.hear()
			s.say("354 go ahead", words)
		})
		_, err := newEmail(t, p.url()).Send(t.Context(), invitation("ada@example.com"), noHandover(t))
		wantOutcome(t, err, outcome)
	}
}

// A slow record is no reason to give up: neither side has broken its word.
func TestSend_waitsForASlowHandover(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(_ int, s *session) { s.greet(); s.accept() })
	const short = 500 * time.Millisecond
	email := newEmail(t, p.url(), func(c *sender.EmailConfig) {
		c.Timeouts = sender.Timeouts{Command: short, Data: short, Block: short}
	})
	h := handovers{do: func() { <-time.After(2 * short) }}
	_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
	wantOutcome(t, err, outbox.Accepted)
}

func TestSend_linesThatBeginWithDotsArriveIntact(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(_ int, s *session) { s.greet(); s.accept() })
	templates := load(t, fstest.MapFS{
		"en/dots.subject": file("Dots"),
		"en/dots.txt":     file(".\n..\n...\n.a\na.\n\n.\n" + strings.Repeat("x", 75) + ".y\n."),
	})
	email := newEmail(t, p.url(), func(c *sender.EmailConfig) { c.Templates = templates })
	m := invitation("ada@example.com")
	m.Template = "dots"
	want, err := email.Compose(m)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(want), "\r\n.\r\n") {
		t.Fatalf("there is no dot alone in:\n%s", want)
	}
	var h handovers
	_, err = email.Send(t.Context(), m, h.record)
	wantOutcome(t, err, outbox.Accepted)
	_ = email.Close()
	_, wire, _ := strings.Cut(p.stop()[0], "DATA\r\n")
	wire, rest, _ := strings.Cut(wire, "\r\n.\r\n")
	if rest != "QUIT\r\n" {
		t.Fatalf("the data ended early; then came %q", rest)
	}
	var got strings.Builder
	for line := range strings.Lines(wire + "\r\n") {
		got.WriteString(strings.TrimPrefix(line, ".")) // RFC 5321 section 4.5.2
	}
	if got.String() != string(want) {
		t.Errorf("the relay got\n%q\nwant\n%q", got.String(), want)
	}
}

func TestSend_leavesARelayThatSaid421(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(n int, s *session) {
		s.greet()
		if n == 1 {
			s.accept()
			return
		}
		s.envelope()
		s.dot()
		s.say("421 4.3.2 shutting down")
	})
	email := newEmail(t, p.url())
	_ = send(t, email, outbox.Deferred)
	_ = send(t, email, outbox.Accepted)
	_ = email.Close()
	p.wantActs(t, "EHLO MAIL RCPT DATA .", "EHLO MAIL RCPT DATA . QUIT")
}
