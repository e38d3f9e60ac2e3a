package sender_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
)

// send sends one message, and wants the outcome.
func send(t *testing.T, email *sender.Email, want outbox.Outcome) error {
	t.Helper()
	var h handovers
	_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
	wantOutcome(t, err, want)
	if wanted := want == outbox.Accepted || want == outbox.Unknown; wanted && h.count() != 1 {
		t.Errorf("handover was called %d times", h.count())
	}
	return err
}

func TestPool_usesAConnectionForManyMessages(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(_ int, s *session) {
		s.greet()
		for !s.ended() {
			s.accept()
		}
	})
	email := newEmail(t, p.url(), func(c *sender.EmailConfig) { c.MaxPerConnection = 2 })
	for range 3 {
		_ = send(t, email, outbox.Accepted)
	}
	_ = email.Close()
	p.wantActs(t, "EHLO MAIL RCPT DATA . MAIL RCPT DATA . QUIT", "EHLO MAIL RCPT DATA . QUIT")
}

func TestPool_closesAConnectionThatIsOld(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(_ int, s *session) { s.greet(); s.accept() })
	email := newEmail(t, p.url(), func(c *sender.EmailConfig) { c.MaxConnectionAge = time.Nanosecond })
	_ = send(t, email, outbox.Accepted)
	_ = send(t, email, outbox.Accepted)
	p.wantActs(t, "EHLO MAIL RCPT DATA . QUIT", "EHLO MAIL RCPT DATA . QUIT")
}

func TestPool_closesAConnectionThatNobodyUses(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(_ int, s *session) { s.greet(); s.accept() })
	email := newEmail(t, p.url(), func(c *sender.EmailConfig) { c.IdleTimeout = 20 * time.Millisecond })
	_ = send(t, email, outbox.Accepted)
	p.wantActs(t, "EHLO MAIL RCPT DATA . QUIT") // waits for the end of the connection
}

// A connection that died while it waited costs the message nothing.
func TestPool_replacesADeadConnection(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		death func(*session)
		want  string // what the first connection gets
	}{
		"hung up while idle":      {func(s *session) { s.hangUp() }, "EHLO MAIL RCPT DATA ."},
		"said goodbye while idle": {func(s *session) { s.say("421 4.4.2 idle too long") }, "EHLO MAIL RCPT DATA ."},
		"hangs up at MAIL":        {func(s *session) { s.hear(); s.hangUp() }, "EHLO MAIL RCPT DATA . MAIL"},
		"421 at MAIL":             {func(s *session) { s.hear(); s.say("421 4.3.2 bye") }, "EHLO MAIL RCPT DATA . MAIL"},
		"garbage at MAIL":         {func(s *session) { s.hear(); s.say("what?") }, "EHLO MAIL RCPT DATA . MAIL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dead := make(chan struct{})
			p := startPeer(t, func(n int, s *session) {
				s.greet()
				s.accept()
				if n == 0 {
					if strings.HasSuffix(name, "idle") {
						test.death(s)
						close(dead)
					} else {
						close(dead)
						test.death(s)
					}
				}
			})
			email := newEmail(t, p.url())
			_ = send(t, email, outbox.Accepted)
			<-dead
			_ = send(t, email, outbox.Accepted)
			_ = email.Close()
			p.wantActs(t, test.want, "EHLO MAIL RCPT DATA . QUIT")
		})
	}
}

// Only once, and only where nothing was offered: a fresh connection that fails
// is an answer.
func TestPool_replacesADeadConnectionOnce(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(n int, s *session) {
		s.greet()
		if n == 0 {
			s.accept()
		}
		s.hear()
		s.hangUp()
	})
	email := newEmail(t, p.url())
	_ = send(t, email, outbox.Accepted)
	_ = send(t, email, outbox.Deferred)
	_ = email.Close()
	p.wantActs(t, "EHLO MAIL RCPT DATA . MAIL", "EHLO MAIL")
}

// After a refusal the transaction is open, and the next MAIL would get 503.
func TestPool_resetsAfterARefusal(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		extension string
		refuse    func(*session)
		want      string
	}{
		"RCPT": {"SIZE", func(s *session) {
			s.hear()
			s.say("250 ok")
			s.hear()
			s.say("550 5.1.1 no")
		}, "EHLO MAIL RCPT RSET MAIL RCPT DATA . QUIT"},
		"MAIL": {"SIZE", func(s *session) { s.hear(); s.say("552 5.3.4 too large") }, "EHLO MAIL RSET MAIL RCPT DATA . QUIT"},
		"DATA": {"SIZE", func(s *session) {
			s.hear()
			s.say("250 ok")
			s.hear()
			s.say("250 ok")
			s.hear()
			s.say("554 no")
		}, "EHLO MAIL RCPT DATA RSET MAIL RCPT DATA . QUIT"},
		"RCPT, pipelined": {"PIPELINING", func(s *session) {
			s.hear()
			s.say("250 ok")
			s.hear()
			s.say("550 5.1.1 no")
			s.hear()
			s.say("503 5.5.1 no recipients")
		}, "EHLO MAIL RCPT DATA RSET MAIL RCPT DATA . QUIT"},
		"MAIL, pipelined": {"PIPELINING", func(s *session) {
			s.hear()
			s.hear()
			s.hear()
			s.say("554 5.3.4 too large", "503 no", "503 no")
		}, "EHLO MAIL RCPT DATA RSET MAIL RCPT DATA . QUIT"},
		"the dot": {"PIPELINING", func(s *session) { s.envelope(); s.dot(); s.say("554 5.7.1 spam") },
			"EHLO MAIL RCPT DATA . RSET MAIL RCPT DATA . QUIT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, func(_ int, s *session) {
				s.greet(test.extension)
				test.refuse(s)
				s.hear()
				s.say("250 reset")
				s.accept()
			})
			email := newEmail(t, p.url())
			_ = send(t, email, outbox.Rejected)
			_ = send(t, email, outbox.Accepted)
			_ = email.Close()
			p.wantActs(t, test.want)
		})
	}
}

func TestPool_aRefusedRSETCostsOnlyTheConnection(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(n int, s *session) {
		s.greet("PIPELINING")
		if n == 0 {
			s.hear()
			s.say("250 ok")
			s.hear()
			s.say("550 5.1.1 no")
			s.hear()
			s.say("503 no")
			s.hear() // RSET, and what follows it
			s.say("500 what?", "503 no", "503 no", "503 no")
			return
		}
		s.accept()
	})
	email := newEmail(t, p.url())
	_ = send(t, email, outbox.Rejected)
	_ = send(t, email, outbox.Accepted)
	_ = email.Close()
	if logs := p.stop(); len(logs) != 2 || strings.Contains(logs[0], "QUIT") {
		t.Errorf("the relay got %q", logs)
	}
}

func TestPool_keepsWithinItsSize(t *testing.T) {
	t.Parallel()
	const size, messages = 3, 60
	var open, most atomic.Int32
	p := startPeer(t, func(_ int, s *session) {
		now := open.Add(1)
		for {
			old := most.Load()
			if now <= old || most.CompareAndSwap(old, now) {
				break
			}
		}
		s.greet("PIPELINING")
		for !s.ended() {
			s.accept()
		}
		open.Add(-1)
	})
	email := newEmail(t, p.url(), func(c *sender.EmailConfig) { c.Connections, c.MaxPerConnection = size, 1000 })
	var wg sync.WaitGroup
	for range messages {
		wg.Go(func() { _ = send(t, email, outbox.Accepted) })
	}
	wg.Wait()
	_ = email.Close()
	if logs := p.stop(); len(logs) > size || most.Load() > size {
		t.Errorf("there were %d connections, %d at a time", len(logs), most.Load())
	}
}

func TestPool_waitsNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	busy, done := make(chan struct{}), make(chan struct{})
	p := startPeer(t, func(_ int, s *session) { s.greet(); s.accept() })
	email := newEmail(t, p.url(), func(c *sender.EmailConfig) { c.Connections = 1 })
	h := handovers{do: func() { close(busy); <-done }}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
		wantOutcome(t, err, outbox.Accepted)
	})
	<-busy
	errStop := errors.New("stop")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errStop)
	defer cancel()
	_, err := email.Send(ctx, invitation("grace@example.com"), noHandover(t))
	wantOutcome(t, err, outbox.Deferred)
	if !errors.Is(err, errStop) {
		t.Errorf("%v", err)
	}
	close(done)
	wg.Wait()
}

// Close closes what waits, wakes who waits, and lets messages under way end.
func TestPool_closes(t *testing.T) {
	t.Parallel()
	busy, done := make(chan struct{}), make(chan struct{})
	p := startPeer(t, func(_ int, s *session) { s.greet(); s.accept() })
	email := newEmail(t, p.url(), func(c *sender.EmailConfig) { c.Connections = 1 })
	h := handovers{do: func() { close(busy); <-done }}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
		wantOutcome(t, err, outbox.Accepted)
	})
	<-busy
	wg.Go(func() {
		if err := send(t, email, outbox.Deferred); !errors.Is(err, sender.ErrClosed) {
			t.Errorf("%v", err)
		}
	})
	_ = email.Close()
	_ = email.Close()
	close(done)
	wg.Wait()
	if err := send(t, email, outbox.Deferred); !errors.Is(err, sender.ErrClosed) {
		t.Errorf("%v", err)
	}
	p.wantActs(t, "EHLO MAIL RCPT DATA . QUIT")
}

func TestPool_survivesAPanicInHandover(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(n int, s *session) {
		s.greet()
		if n == 0 {
			s.envelope()
			return
		}
		s.accept()
	})
	email := newEmail(t, p.url(), func(c *sender.EmailConfig) { c.Connections = 1 })
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		h := handovers{do: func() { panic("boom") }}
		_, _ = email.Send(t.Context(), invitation("ada@example.com"), h.record)
	}()
	_ = send(t, email, outbox.Accepted)
	_ = email.Close()
	logs := p.stop()
	if len(logs) != 2 || strings.Contains(logs[0], "QUIT") || strings.Contains(logs[0], "\r\n.\r\n") {
		t.Errorf("the relay got %q", logs)
	}
}

// F2: what happens after 250 changes nothing, not for this message nor for the
// next.
func TestSend_F2_nothingAfterTheAcceptanceCounts(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(_ int, s *session) {
		s.greet()
		s.accept()
		s.hangUp()
	})
	email := newEmail(t, p.url(), func(c *sender.EmailConfig) { c.MaxPerConnection = 1 })
	for range 5 {
		_ = send(t, email, outbox.Accepted)
	}
}
