package sender_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
)

// row is a number of messages that wait for one connection, in their order.
type row struct {
	email    *sender.Email
	messages []*rowMessage
}

type rowMessage struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	h      handovers
	err    error
	done   chan struct{}
}

// newRow gives a row for the relay p with one connection, unless changed.
func newRow(t *testing.T, urls string, n int, change ...func(*sender.EmailConfig)) *row {
	t.Helper()
	one := func(c *sender.EmailConfig) { c.Connections = 1 }
	r := &row{email: newEmail(t, urls, append([]func(*sender.EmailConfig){one}, change...)...)}
	for range n {
		m := &rowMessage{done: make(chan struct{})}
		m.ctx, m.cancel = context.WithCancelCause(t.Context())
		r.messages = append(r.messages, m)
	}
	return r
}

// start sends the messages. The handover of the first ends when all others wait.
func (r *row) start(t *testing.T) {
	t.Helper()
	begun, end := make(chan struct{}), make(chan struct{})
	first := r.messages[0]
	last := first.h.do
	first.h.do = func() {
		close(begun)
		<-end
		if last != nil {
			last()
		}
	}
	for i, m := range r.messages {
		go func() {
			defer close(m.done)
			defer func() {
				if p := recover(); p != nil {
					m.err = errPanic
				}
			}()
			_, m.err = r.email.Send(m.ctx, invitation("ada@example.com"), m.h.record)
		}()
		if i == 0 {
			select {
			case <-begun:
			case <-m.done:
				t.Fatalf("the first message was not handed over: %v", m.err)
			}
			continue
		}
		waitForMessages(t, r.email, i)
	}
	close(end)
}

var errPanic = errors.New("panic")

// want waits for the messages, and wants their outcomes.
func (r *row) want(t *testing.T, outcomes ...outbox.Outcome) {
	t.Helper()
	for i, m := range r.messages {
		<-m.done
		m.cancel(nil)
		if got := outbox.OutcomeOf(m.err); got != outcomes[i] {
			t.Errorf("message %d is %s, want %s; the error is %v", i, got, outcomes[i], m.err)
		}
		if want := outcomes[i] == outbox.Accepted || outcomes[i] == outbox.Unknown; m.h.count() > 1 || want && m.h.count() == 0 {
			t.Errorf("message %d was handed over %d times", i, m.h.count())
		}
	}
}

// waitForMessages waits until n messages wait for a connection.
func waitForMessages(t *testing.T, email *sender.Email, n int) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for tick := time.NewTicker(time.Millisecond); email.Waiting() != n; {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d messages wait, want %d", email.Waiting(), n)
		}
	}
}

// dotAndMore reads to the dot, and on through what must have come with it: the
// next envelope.
func (s *session) dotAndMore(t *testing.T) {
	t.Helper()
	s.dot()
	if s.r.Buffered() == 0 {
		t.Error("nothing came behind the dot")
		return
	}
	for range 3 {
		s.hear()
	}
}

// dotAlone reads to the dot, behind which nothing may come.
func (s *session) dotAlone(t *testing.T) {
	t.Helper()
	s.dot()
	if s.r.Buffered() != 0 {
		t.Error("something came behind the dot")
	}
}

// goAhead answers an envelope.
func (s *session) goAhead() {
	s.say("250 sender")
	s.say("250 recipient")
	s.say("354 go ahead")
}

// wantNoEnd wants that the data on this connection was not ended after the last
// go-ahead.
func wantNoEnd(t *testing.T, log string) {
	t.Helper()
	_, last, _ := strings.Cut(log, "\r\n.\r\nMAIL")
	if strings.Contains(last, "\r\n.\r\n") || strings.Contains(last, "QUIT") {
		t.Errorf("the relay got:\n%s", log)
	}
}

// impatient is a sender that does not wait long for an answer that never comes.
func impatient(c *sender.EmailConfig) {
	c.Timeouts.Command, c.Timeouts.Data = 5*time.Second, 5*time.Second
}

const (
	aMail   = "MAIL RCPT DATA ."
	offered = "EHLO " + aMail + " MAIL RCPT DATA"
)
