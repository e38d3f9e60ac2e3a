package sender_test

import (
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
)

// Where the next message could not have the connection, or not yet, it is not
// offered on it.
func TestBehind_isNotOfferedWhatMayNotFollow(t *testing.T) {
	t.Parallel()
	two := []string{"EHLO " + aMail + " QUIT", "EHLO " + aMail + " QUIT"}
	one := []string{"EHLO " + aMail + " " + aMail + " QUIT"}
	for name, test := range map[string]struct {
		extension, url string
		change         func(*sender.EmailConfig)
		acts           []string
	}{
		"the connection has had its messages": {"PIPELINING", "", func(c *sender.EmailConfig) { c.MaxPerConnection = 1 }, two},
		"the connection is old":               {"PIPELINING", "", func(c *sender.EmailConfig) { c.MaxConnectionAge = time.Nanosecond }, two},
		"the relay has a rate":                {"PIPELINING", "&rate=1000", func(*sender.EmailConfig) {}, one},
		"the relay knows no pipelining":       {"SIZE", "", func(*sender.EmailConfig) {}, one},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, func(_ int, s *session) {
				s.greet(test.extension)
				for !s.ended() {
					s.envelope()
					s.dotAlone(t)
					s.say("250 ok")
				}
			})
			r := newRow(t, p.url()+test.url, 2, test.change)
			r.start(t)
			r.want(t, outbox.Accepted, outbox.Accepted)
			_ = r.email.Close()
			p.wantActs(t, test.acts...)
		})
	}
}

// The breaker is asked when the turn comes, as if there had been no offer.
func TestBehind_respectsTheBreaker(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(_ int, s *session) {
		s.greet("PIPELINING")
		s.envelope()
		s.dotAndMore(t)
		s.say("530 5.7.0 log in")
		s.goAhead()
	})
	r := newRow(t, p.url(), 2, breaks(time.Hour))
	r.start(t)
	r.want(t, outbox.Deferred, outbox.Deferred)
	wantUnavailable(t, r.messages[1].err)
	if r.messages[1].h.count() != 0 {
		t.Error("it was handed over")
	}
	_ = r.email.Close()
	wantNoEnd(t, p.stop()[0])
}

// Behind the dot of a trial nothing is offered.
func TestBehind_waitsForTheEndOfATrial(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(_ int, s *session) {
		s.greet("PIPELINING")
		s.envelope()
		s.dotAndMore(t)
		s.say("530 5.7.0 log in") // the next message is the trial
		s.goAhead()
		s.dotAlone(t)
		s.say("250 ok")
		s.accept()
	})
	r := newRow(t, p.url(), 3, breaks(time.Nanosecond))
	r.start(t)
	r.want(t, outbox.Deferred, outbox.Accepted, outbox.Accepted)
	_ = r.email.Close()
	p.wantActs(t, "EHLO "+aMail+" "+aMail+" "+aMail+" QUIT")
}

// A dot that is not answered for long holds up nobody else, and its own message
// still gets the answer.
func TestBehind_isOvertakenWhenTheAnswerTakesLong(t *testing.T) {
	t.Parallel()
	var r *row
	otherBegun, otherEnd, otherDone := make(chan struct{}), make(chan struct{}), make(chan struct{})
	p := startPeer(t, func(n int, s *session) {
		s.greet("PIPELINING")
		s.envelope()
		if n == 0 {
			s.dot()
			s.say("250 ok")
			s.accept()
			return
		}
		s.dotAndMore(t)
		close(otherEnd)
		<-r.messages[1].done
		s.say("250 ok")
		s.goAhead()
	})
	r = newRow(t, p.url(), 2, func(c *sender.EmailConfig) { c.Connections = 2 })
	go func() {
		defer close(otherDone)
		h := handovers{do: func() { close(otherBegun); <-otherEnd }}
		_, err := r.email.Send(t.Context(), invitation("grace@example.com"), h.record)
		wantOutcome(t, err, outbox.Accepted)
	}()
	<-otherBegun
	r.start(t)
	r.want(t, outbox.Accepted, outbox.Accepted)
	<-otherDone
	_ = r.email.Close()
	wantNoEnd(t, p.stop()[1])
}

// What is offered behind a dot counts as one of the connection's messages.
func TestBehind_countsTheMessagesOfAConnection(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(_ int, s *session) {
		s.greet("PIPELINING")
		s.envelope()
		s.dotAndMore(t)
		s.say("250 ok")
		s.goAhead()
		s.dotAlone(t)
		s.say("250 ok")
	})
	r := newRow(t, p.url(), 4, func(c *sender.EmailConfig) { c.MaxPerConnection = 2 })
	r.start(t)
	r.want(t, outbox.Accepted, outbox.Accepted, outbox.Accepted, outbox.Accepted)
	_ = r.email.Close()
	p.wantActs(t, "EHLO "+aMail+" "+aMail+" QUIT", "EHLO "+aMail+" "+aMail+" QUIT")
}
