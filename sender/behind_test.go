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

func TestBehind_theNextEnvelopeComesWithTheDot(t *testing.T) {
	t.Parallel()
	server, client := certificate(t)
	for name, encrypted := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, func(_ int, s *session) {
				if encrypted {
					s.startTLS(server)
				}
				s.greet("PIPELINING")
				s.envelope()
				for range 2 {
					s.dotAndMore(t)
					s.say("250 ok")
					s.goAhead()
				}
				s.dotAlone(t)
				s.say("250 ok")
			})
			url := p.url()
			if encrypted {
				url = "smtps://" + p.listener.Addr().String()
			}
			r := newRow(t, url, 3, trusting(client))
			r.start(t)
			r.want(t, outbox.Accepted, outbox.Accepted, outbox.Accepted)
			_ = r.email.Close()
			p.wantActs(t, "EHLO "+aMail+" "+aMail+" "+aMail+" QUIT")
		})
	}
}

// What becomes of a message is its own affair: the next one, which was offered
// behind its dot, goes on or gets a new connection, and counts as tried once.
func TestBehind_theNextMessageDoesNotCareAboutTheOneBefore(t *testing.T) {
	t.Parallel()
	goesOn := []string{"EHLO " + aMail + " " + aMail + " QUIT"}
	startsAnew := []string{offered, "EHLO " + aMail + " QUIT"}
	for name, test := range map[string]struct {
		answer func(*session)
		first  outbox.Outcome
		acts   []string
	}{
		"accepted":             {func(s *session) { s.say("250 ok"); s.goAhead(); s.dot(); s.say("250 ok") }, outbox.Accepted, goesOn},
		"554 at the dot":       {func(s *session) { s.say("554 5.7.1 spam"); s.goAhead(); s.dot(); s.say("250 ok") }, outbox.Rejected, goesOn},
		"451 at the dot":       {func(s *session) { s.say("451 4.3.0 later"); s.goAhead(); s.dot(); s.say("250 ok") }, outbox.Deferred, goesOn},
		"554, and no reset":    {func(s *session) { s.say("554 5.7.1 spam", "503 nested MAIL", "250 ok", "354 go") }, outbox.Rejected, startsAnew},
		"421 at the dot":       {func(s *session) { s.say("421 4.3.2 bye") }, outbox.Deferred, startsAnew},
		"421 and hung up":      {func(s *session) { s.say("421 4.3.2 bye"); s.hangUp() }, outbox.Deferred, startsAnew},
		"hung up at the dot":   {func(s *session) { s.hangUp() }, outbox.Unknown, startsAnew},
		"garbage at the dot":   {func(s *session) { s.say("what?", "250 ok", "250 ok", "354 go ahead") }, outbox.Unknown, startsAnew},
		"354 at the dot":       {func(s *session) { s.say("354 more", "250 ok", "250 ok", "354 go ahead") }, outbox.Unknown, startsAnew},
		"accepted and 421":     {func(s *session) { s.say("250 ok", "421 4.3.2 enough") }, outbox.Accepted, startsAnew},
		"accepted and hung up": {func(s *session) { s.say("250 ok"); s.hangUp() }, outbox.Accepted, startsAnew},
		"accepted and garbage": {func(s *session) { s.say("250 ok", "what?") }, outbox.Accepted, startsAnew},
		"451 and 421":          {func(s *session) { s.say("451 later", "421 4.3.2 enough") }, outbox.Deferred, startsAnew},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, func(n int, s *session) {
				s.greet("PIPELINING")
				if n > 0 {
					s.accept()
					return
				}
				s.envelope()
				s.dotAndMore(t)
				test.answer(s)
			})
			r := newRow(t, p.url(), 2, impatient)
			r.start(t)
			r.want(t, test.first, outbox.Accepted)
			_ = r.email.Close()
			p.wantActs(t, test.acts...)
		})
	}
}

// A relay that closes the connection while commands lie unread resets it. Its
// answer to the dot came before, and counts.
func TestBehind_theAnswerCountsThoughTheConnectionIsReset(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(n int, s *session) {
		s.greet("PIPELINING")
		s.envelope()
		s.dot()
		s.say("250 ok")
		if n == 0 {
			s.hangUp()
		}
	})
	r := newRow(t, p.url(), 2)
	r.start(t)
	r.want(t, outbox.Accepted, outbox.Accepted)
	_ = r.email.Close()
	p.wantActs(t, "EHLO "+aMail, "EHLO "+aMail+" QUIT")
}

// A refusal of the next envelope is settled as ever. Where the relay waits for a
// dot all the same it never gets one.
func TestBehind_aRefusedEnvelopeIsSettled(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		replies []string
		acts    []string
	}{
		"RCPT":                    {[]string{"250 ok", "550 5.1.1 no", "503 no"}, []string{offered + " RSET " + aMail + " QUIT"}},
		"RCPT, 354 all the same":  {[]string{"250 ok", "550 5.1.1 no", "354 go ahead"}, []string{offered, "EHLO " + aMail + " QUIT"}},
		"MAIL":                    {[]string{"552 5.3.4 large", "503 no", "503 no"}, []string{offered + " RSET " + aMail + " QUIT"}},
		"MAIL, 354 all the same":  {[]string{"552 5.3.4 large", "250 ok", "354 go ahead"}, []string{offered, "EHLO " + aMail + " QUIT"}},
		"DATA":                    {[]string{"250 ok", "250 ok", "554 no"}, []string{offered + " RSET " + aMail + " QUIT"}},
		"RCPT, and no more words": {[]string{"250 ok", "550 5.1.1 no", "421 bye"}, []string{offered, "EHLO " + aMail + " QUIT"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, func(n int, s *session) {
				s.greet("PIPELINING")
				if n == 0 {
					s.envelope()
					s.dotAndMore(t)
					s.say("250 ok")
					for _, reply := range test.replies {
						s.say(reply)
					}
					if len(test.acts) > 1 {
						return
					}
					s.hear()
					s.say("250 reset")
				}
				s.accept()
			})
			r := newRow(t, p.url(), 2, impatient)
			r.start(t)
			r.want(t, outbox.Accepted, outbox.Rejected)
			_ = send(t, r.email, outbox.Accepted)
			_ = r.email.Close()
			p.wantActs(t, test.acts...)
		})
	}
}

// Who waits behind a dot and gives up leaves at once. The relay may have said go
// ahead to its DATA: the connection ends without a dot, and without QUIT.
func TestBehind_givesUpWhileTheDotIsNotAnswered(t *testing.T) {
	t.Parallel()
	errStop := errors.New("stop")
	for name, stop := range map[string]func(r *row){
		"the context ends": func(r *row) { r.messages[1].cancel(errStop) },
		"Close":            func(r *row) { _ = r.email.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var r *row
			p := startPeer(t, func(n int, s *session) {
				s.greet("PIPELINING")
				s.envelope()
				if n > 0 {
					s.dotAlone(t)
					s.say("250 ok")
					return
				}
				s.dotAndMore(t)
				stop(r)
				<-r.messages[1].done
				s.say("250 ok")
				s.goAhead()
			})
			r = newRow(t, p.url(), 2)
			r.start(t)
			r.want(t, outbox.Accepted, outbox.Deferred)
			if err := r.messages[1].err; r.messages[1].h.count() != 0 || !errors.Is(err, errStop) && !errors.Is(err, sender.ErrClosed) {
				t.Errorf("%d handovers, %v", r.messages[1].h.count(), err)
			}
			if name != "Close" {
				_ = send(t, r.email, outbox.Accepted)
			}
			_ = r.email.Close()
			for _, log := range p.stop()[:1] {
				wantNoEnd(t, log)
			}
		})
	}
}

// The same when its turn has come, and the answers to its envelope have not.
func TestBehind_givesUpBeforeItsHandover(t *testing.T) {
	t.Parallel()
	errStop := errors.New("stop")
	var r *row
	p := startPeer(t, func(_ int, s *session) {
		s.greet("PIPELINING")
		s.envelope()
		s.dotAndMore(t)
		s.say("250 ok")
		s.say("250 sender")
		<-r.messages[0].done
		r.messages[1].cancel(errStop)
		<-r.messages[1].done
		s.say("250 recipient")
		s.say("354 go ahead")
	})
	r = newRow(t, p.url(), 2)
	r.start(t)
	r.want(t, outbox.Accepted, outbox.Deferred)
	if err := r.messages[1].err; !errors.Is(err, errStop) || r.messages[1].h.count() != 0 {
		t.Errorf("%v", err)
	}
	_ = r.email.Close()
	wantNoEnd(t, p.stop()[0])
}

// Without a dot nothing goes out behind it, and who waits gets another connection.
func TestBehind_nothingIsOfferedWithoutADot(t *testing.T) {
	t.Parallel()
	begun, spoken := make(chan struct{}), make(chan struct{})
	for name, test := range map[string]struct {
		fails error  // what handover says
		do    func() // what happens in it
		words string // of the relay meanwhile
	}{
		"handover fails":               {fails: errors.New("no right to send")},
		"handover panics":              {do: func() { panic("boom") }},
		"the relay speaks out of turn": {do: func() { close(begun); <-spoken }, words: "250 you wish"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, func(n int, s *session) {
				s.greet("PIPELINING")
				if n > 0 {
					s.accept()
					return
				}
				s.envelope()
				s.body()
				if test.words != "" {
					<-begun // or it would be refused before its handover
					s.say(test.words)
					close(spoken)
				}
			})
			r := newRow(t, p.url(), 2)
			r.messages[0].h.err, r.messages[0].h.do = test.fails, test.do
			r.start(t)
			if r.want(t, outbox.Deferred, outbox.Accepted); name == "handover panics" && !errors.Is(r.messages[0].err, errPanic) {
				t.Errorf("%v", r.messages[0].err)
			}
			_ = r.email.Close()
			p.wantActs(t, "EHLO MAIL RCPT DATA", "EHLO "+aMail+" QUIT")
		})
	}
}

// An answer too many is never taken for the answer to a dot: the next message
// finds that the replies do not fit, before its handover.
func TestBehind_anAnswerTooManyIsNoneToTheNextDot(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(_ int, s *session) {
		s.greet("PIPELINING")
		s.envelope()
		s.dotAndMore(t)
		s.say("250 ok")
		s.say("250 ok")
		s.goAhead()
	})
	r := newRow(t, p.url(), 2)
	r.start(t)
	r.want(t, outbox.Accepted, outbox.Deferred)
	if r.messages[1].h.count() != 0 {
		t.Error("it was handed over")
	}
	_ = r.email.Close()
	wantNoEnd(t, p.stop()[0])
}

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
