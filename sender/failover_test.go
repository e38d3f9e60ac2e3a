package sender_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// comeBack waits as long as an Unavailable says.
func comeBack(err error) {
	if not, ok := errors.AsType[*outbox.Unavailable](err); ok {
		<-time.After(not.RetryAfter)
	}
}

// nobody gives the address of a relay that is down.
func nobody(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	return listener.Addr().String()
}

// faulty starts a relay with one fault.
func faulty(t *testing.T, faults ...mailbox.Fault) *mailbox.Server {
	t.Helper()
	return mailbox.Start(t, mailbox.Config{Faults: faults})
}

// breaks sets how long a relay is left alone.
func breaks(d time.Duration) func(*sender.EmailConfig) {
	return func(c *sender.EmailConfig) { c.BreakerMin, c.BreakerMax = d, d }
}

// wantUnavailable wants that nothing was tried, and gives the wait.
func wantUnavailable(t *testing.T, err error) time.Duration {
	t.Helper()
	not, ok := errors.AsType[*outbox.Unavailable](err)
	if !ok {
		t.Fatalf("%v is no Unavailable", err)
	}
	if outbox.OutcomeOf(err) != outbox.Deferred {
		t.Errorf("the outcome is %s", outbox.OutcomeOf(err))
	}
	return not.RetryAfter
}

// What is about the relay goes to the next one; what is about the message does
// not, nor does anything after handover, which happens once.
func TestSend_failsOver(t *testing.T) {
	t.Parallel()
	const short = 300 * time.Millisecond
	for name, test := range map[string]struct {
		fault mailbox.Fault
		stays outbox.Outcome // if there is no fail-over
	}{
		"greeting 554":        {fault: mailbox.Fault{At: mailbox.Greeting, Reply: "554 5.7.1 go away"}},
		"greeting 421":        {fault: mailbox.Fault{At: mailbox.Greeting, Reply: "421 4.3.2 busy", Close: true}},
		"dropped at greeting": {fault: mailbox.Fault{At: mailbox.Greeting, Close: true}},
		"hangs at greeting":   {fault: mailbox.Fault{At: mailbox.Greeting, Hang: true}},
		"EHLO 554":            {fault: mailbox.Fault{At: mailbox.EHLO, Reply: "554 5.7.1 go away"}},
		"MAIL 550":            {fault: mailbox.Fault{At: mailbox.MailFrom, Reply: "550 5.7.1 not you"}},
		"MAIL 451":            {fault: mailbox.Fault{At: mailbox.MailFrom, Reply: "451 4.3.0 later"}},
		"dropped at MAIL":     {fault: mailbox.Fault{At: mailbox.MailFrom, Close: true}},
		"dropped at RCPT":     {fault: mailbox.Fault{At: mailbox.Rcpt, Close: true}},
		"hangs at RCPT":       {fault: mailbox.Fault{At: mailbox.Rcpt, Hang: true}},
		"RCPT 421":            {fault: mailbox.Fault{At: mailbox.Rcpt, Reply: "421 4.3.2 bye", Close: true}},
		"RCPT 550 denied":     {fault: mailbox.Fault{At: mailbox.Rcpt, Reply: "550 5.7.1 relay access denied"}},
		"DATA 454":            {fault: mailbox.Fault{At: mailbox.Data, Reply: "454 4.7.0 throttled"}},
		"dropped at DATA":     {fault: mailbox.Fault{At: mailbox.Data, Close: true}},

		"MAIL 552":          {mailbox.Fault{At: mailbox.MailFrom, Reply: "552 5.3.4 too large"}, outbox.Rejected},
		"RCPT 550":          {mailbox.Fault{At: mailbox.Rcpt, Reply: "550 5.1.1 no such user"}, outbox.Rejected},
		"RCPT 450":          {mailbox.Fault{At: mailbox.Rcpt, Reply: "450 4.7.1 greylisted"}, outbox.Deferred},
		"DATA 451":          {mailbox.Fault{At: mailbox.Data, Reply: "451 4.3.0 later"}, outbox.Deferred},
		"DATA 554":          {mailbox.Fault{At: mailbox.Data, Reply: "554 5.7.1 no"}, outbox.Rejected},
		"dot 554":           {mailbox.Fault{At: mailbox.Dot, Reply: "554 5.7.1 spam"}, outbox.Rejected},
		"dot 530":           {mailbox.Fault{At: mailbox.Dot, Reply: "530 5.7.0 log in"}, outbox.Deferred},
		"dot 421":           {mailbox.Fault{At: mailbox.Dot, Reply: "421 4.3.2 bye", Close: true}, outbox.Deferred},
		"dropped after dot": {mailbox.Fault{At: mailbox.Dot, Close: true}, outbox.Unknown},
		"hangs after dot":   {mailbox.Fault{At: mailbox.Dot, Hang: true}, outbox.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := faulty(t, test.fault), faulty(t)
			logger, log := recordingLogger()
			email := newEmail(t, plainURL(first)+","+plainURL(second), func(c *sender.EmailConfig) {
				c.Timeouts = sender.Timeouts{Greeting: short, Command: short, Data: short, Block: short, Dot: short}
				c.Logger = logger
			})
			var h handovers
			reply, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
			atDot := test.fault.At == mailbox.Dot
			if test.stays != "" {
				wantOutcome(t, err, test.stays)
				if _, ok := errors.AsType[*outbox.SendError](err); !ok || reply.Relay != first.Addr() || second.Connections() != 0 || h.count() > 1 || atDot != (h.count() == 1) {
					t.Errorf("reply %+v, error %v, %d connections to the second, handovers %q", reply, err, second.Connections(), h.relays)
				}
				return
			}
			wantOutcome(t, err, outbox.Accepted)
			if reply.Relay != second.Addr() || h.count() != 1 || h.relays[0] != second.Addr() || len(second.Mails("")) != 1 {
				t.Errorf("reply %+v, handovers %q", reply, h.relays)
			}
			if !strings.Contains(log.String(), "another one took the message") || !strings.Contains(log.String(), first.Addr()) {
				t.Errorf("the log is %q", log.String())
			}
		})
	}
}

func TestSend_failsOverNowhereOnceHandoverWasCalled(t *testing.T) {
	t.Parallel()
	begun, gone := make(chan struct{}), make(chan struct{})
	p := startPeer(t, func(_ int, s *session) {
		s.greet()
		s.envelope()
		s.body()
		<-begun
		s.hangUp()
		close(gone)
	})
	second := faulty(t)
	for name, h := range map[string]*handovers{
		"the relay hangs up meanwhile": {do: func() { close(begun); <-gone }},
		"it fails":                     {err: errors.New("lost the right to send")},
	} {
		email := newEmail(t, p.url()+" "+plainURL(second))
		if name == "it fails" {
			email = newEmail(t, plainURL(faulty(t))+" "+plainURL(second))
		}
		_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
		wantOutcome(t, err, outbox.Deferred)
		if _, ok := errors.AsType[*outbox.SendError](err); !ok || h.count() != 1 || second.Connections() != 0 {
			t.Errorf("%s: %v, %d handovers, %d connections to the second", name, err, h.count(), second.Connections())
		}
	}
}

// The error tells of every relay, the reply is that of the last.
func TestSend_reportsAllRelays(t *testing.T) {
	t.Parallel()
	down := nobody(t)
	busy := faulty(t, mailbox.Fault{At: mailbox.MailFrom, Reply: "451 4.3.0 later"})
	email := newEmail(t, "smtp://"+down+"?tls=none,"+plainURL(busy))
	reply, err := email.Send(t.Context(), invitation("ada@example.com"), noHandover(t))
	wantOutcome(t, err, outbox.Deferred)
	if _, ok := errors.AsType[*outbox.SendError](err); !ok || reply.Relay != busy.Addr() || reply.Code != 451 {
		t.Errorf("reply %+v, error %v", reply, err)
	}
	for _, want := range []string{down + ": connect: ", busy.Addr() + ": MAIL FROM: 451 4.3.0 later"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}

func TestSend_comesBackToARelayThatHeals(t *testing.T) {
	t.Parallel()
	down, second := nobody(t), faulty(t)
	logger, log := recordingLogger()
	email := newEmail(t, "smtp://"+down+"?tls=none,"+plainURL(second), breaks(20*time.Millisecond), func(c *sender.EmailConfig) { c.Logger = logger })
	for range 10 {
		_ = send(t, email, outbox.Accepted)
	}
	if got := len(second.Mails("")); got != 10 || !strings.Contains(log.String(), "relay fails") {
		t.Fatalf("the second got %d mails; the log is %q", got, log.String())
	}
	healed := mailbox.Start(t, mailbox.Config{Addr: down})
	for deadline := time.After(10 * time.Second); len(healed.Mails("")) == 0; {
		select {
		case <-deadline:
			t.Fatal("nothing was sent to the relay that healed")
		default:
			_ = send(t, email, outbox.Accepted)
		}
	}
	before := len(second.Mails(""))
	_ = send(t, email, outbox.Accepted)
	if len(second.Mails("")) != before || !strings.Contains(log.String(), "relay works again") {
		t.Errorf("the second is still used; the log is %q", log.String())
	}
}

// A relay that refuses us is left alone at once, and raises one alarm.
func TestSend_leavesARelayAloneThatRefusesUs(t *testing.T) {
	t.Parallel()
	first := mailbox.Start(t, mailbox.Config{Users: map[string]string{"ada": "pencil"}})
	second := faulty(t)
	logger, log := recordingLogger()
	email := newEmail(t, "smtp://ada:wrong@"+first.Addr()+"?tls=none,"+plainURL(second), breaks(time.Hour), func(c *sender.EmailConfig) { c.Logger = logger })
	for range 8 {
		_ = send(t, email, outbox.Accepted)
	}
	if first.Connections() != 1 || len(second.Mails("")) != 8 {
		t.Errorf("%d connections to the first, %d mails at the second", first.Connections(), len(second.Mails("")))
	}
	if alarms := strings.Count(log.String(), "level=ERROR"); alarms != 1 || !strings.Contains(log.String(), "relay refuses us") {
		t.Errorf("%d alarms: %s", alarms, log.String())
	}
}

// Who waited for a connection meanwhile does not try it again, and messages
// refused together raise one alarm.
func TestSend_leavesARelayAloneThatRefusesManyAtATime(t *testing.T) {
	t.Parallel()
	first := faulty(t, mailbox.Fault{At: mailbox.Greeting, Delay: 300 * time.Millisecond, Reply: "554 5.7.1 go away"})
	second := faulty(t)
	logger, log := recordingLogger()
	email := newEmail(t, plainURL(first)+","+plainURL(second), breaks(time.Hour), func(c *sender.EmailConfig) { c.Logger = logger })
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { _ = send(t, email, outbox.Accepted) })
	}
	wg.Wait()
	if alarms := strings.Count(log.String(), "level=ERROR"); alarms != 1 || first.Connections() > 4 {
		t.Errorf("%d alarms, %d connections: %s", alarms, first.Connections(), log.String())
	}
}

// The alarm comes again when the relay was tried again, and not before.
func TestSend_raisesOneAlarmForEachTrial(t *testing.T) {
	t.Parallel()
	box := faulty(t, mailbox.Fault{At: mailbox.Greeting, Reply: "554 5.7.1 go away"})
	logger, log := recordingLogger()
	email := newEmail(t, plainURL(box), breaks(5*time.Millisecond), func(c *sender.EmailConfig) { c.Logger = logger })
	for deadline := time.After(10 * time.Second); box.Connections() < 3; {
		select {
		case <-deadline:
			t.Fatalf("%d connections", box.Connections())
		default:
			_, err := email.Send(t.Context(), invitation("ada@example.com"), noHandover(t))
			wantUnavailable(t, err)
		}
	}
	if alarms := strings.Count(log.String(), "level=ERROR"); alarms != box.Connections() {
		t.Errorf("%d alarms in %d connections", alarms, box.Connections())
	}
}

// While nothing can be used nothing is tried, and who asks is told when to come
// back.
func TestSend_isUnavailableWhileEveryBreakerIsOpen(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		first, second mailbox.Fault
		attempts      int // that are recorded before the breakers open
	}{
		"both refuse us":             {mailbox.Fault{At: mailbox.EHLO, Reply: "554 no"}, mailbox.Fault{At: mailbox.MailFrom, Reply: "550 no"}, 0},
		"one refuses us, one is bad": {mailbox.Fault{At: mailbox.EHLO, Reply: "554 no"}, mailbox.Fault{At: mailbox.Greeting, Close: true}, 5},
		"both are bad":               {mailbox.Fault{At: mailbox.MailFrom, Close: true}, mailbox.Fault{At: mailbox.Greeting, Reply: "421 4.3.2 busy", Close: true}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := faulty(t, test.first), faulty(t, test.second)
			email := newEmail(t, plainURL(first)+","+plainURL(second), breaks(time.Hour))
			for range test.attempts {
				_, err := email.Send(t.Context(), invitation("ada@example.com"), noHandover(t))
				if _, ok := errors.AsType[*outbox.SendError](err); !ok {
					t.Errorf("%v is no SendError", err)
				}
			}
			connections := 0
			for i := range 4 {
				_, err := email.Send(t.Context(), invitation("ada@example.com"), noHandover(t))
				if wait := wantUnavailable(t, err); wait > time.Hour || wait < time.Hour-time.Minute {
					t.Errorf("to come back in %s", wait)
				}
				if test.attempts == 0 && i == 0 {
					if !errors.Is(err, sender.ErrRefused) {
						t.Errorf("%v is no refusal", err)
					}
					connections = first.Connections() + second.Connections()
				}
			}
			if test.attempts > 0 {
				connections = first.Connections() + second.Connections()
				_, _ = email.Send(t.Context(), invitation("ada@example.com"), noHandover(t))
			}
			if got := first.Connections() + second.Connections(); got != connections || connections == 0 {
				t.Errorf("%d connections, then %d", connections, got)
			}
		})
	}
}

// A panic in handover gives back the connection, and the right to the trial.
func TestSend_survivesAPanicInATrial(t *testing.T) {
	t.Parallel()
	box := faulty(t, mailbox.Fault{At: mailbox.Greeting, Reply: "554 no", Times: 1})
	email := newEmail(t, plainURL(box), breaks(time.Nanosecond), func(c *sender.EmailConfig) { c.Connections = 1 })
	_ = send(t, email, outbox.Deferred)
	func() {
		defer func() { _ = recover() }()
		_, _ = email.Send(t.Context(), invitation("ada@example.com"), (&handovers{do: func() { panic("boom") }}).record)
	}()
	_ = send(t, email, outbox.Accepted)
}

// Two relays that fail all the time, and every message arrives once.
func TestSend_manyThroughUnreliableRelaysEachOnce(t *testing.T) {
	t.Parallel()
	const messages = 200
	faults := func(n int) []mailbox.Fault {
		return []mailbox.Fault{
			{At: mailbox.Greeting, Reply: "421 4.3.2 busy", Close: true, Times: n},
			{At: mailbox.EHLO, Reply: "554 5.7.1 go away", Times: n},
			{At: mailbox.MailFrom, Close: true, Times: n},
			{At: mailbox.Rcpt, Reply: "550 5.7.1 relaying denied", To: "ada1", Times: n},
			{At: mailbox.Data, Reply: "454 4.7.0 throttled", Times: n},
			{At: mailbox.Dot, Reply: "421 4.3.2 bye", Close: true, Times: n},
		}
	}
	first, second := faulty(t, faults(10)...), faulty(t, faults(7)...)
	email := newEmail(t, plainURL(first)+"&priority=1,"+plainURL(second)+"&priority=1&rate=1000", breaks(5*time.Millisecond))
	var wg sync.WaitGroup
	for n := range messages {
		wg.Go(func() {
			for {
				var h handovers
				_, err := email.Send(t.Context(), invitation(fmt.Sprintf("ada%d@example.com", n)), h.record)
				if h.count() > 1 {
					t.Errorf("%d handovers in one Send", h.count())
				}
				if err == nil {
					return
				}
				comeBack(err)
				if outcome := outbox.OutcomeOf(err); outcome != outbox.Deferred && outcome != outbox.Rejected {
					t.Errorf("%s: %v", outcome, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for n := range messages {
		to := fmt.Sprintf("ada%d@example.com", n)
		if got := len(first.Mails(to)) + len(second.Mails(to)); got != 1 {
			t.Errorf("message %d arrived %d times", n, got)
		}
	}
	_ = email.Close()
	waitUntilClosed(t, first)
	waitUntilClosed(t, second)
}
