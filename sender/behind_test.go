package sender_test

import (
	"errors"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
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
