package sender_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

func TestSend_sharesByPriority(t *testing.T) {
	t.Parallel()
	const messages = 60
	for name, test := range map[string]struct {
		parameters [3]string
		gets       [3]bool
	}{
		"by their order":             {[3]string{"", "", ""}, [3]bool{true, false, false}},
		"by number":                  {[3]string{"&priority=9", "&priority=1", "&priority=5"}, [3]bool{false, true, false}},
		"a number against an order":  {[3]string{"&priority=9", "", ""}, [3]bool{false, true, false}},
		"equals":                     {[3]string{"&priority=4", "", "&priority=2"}, [3]bool{false, true, true}},
		"one that is first by order": {[3]string{"", "&priority=1", "&priority=1"}, [3]bool{true, true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			urls := ""
			var boxes [3]*mailbox.Server
			for i := range boxes {
				boxes[i] = faulty(t)
				urls += plainURL(boxes[i]) + test.parameters[i] + " "
			}
			email := newEmail(t, urls)
			for range messages {
				_ = send(t, email, outbox.Accepted)
			}
			for i, box := range boxes {
				if got := len(box.Mails("")); (got > messages/10) != test.gets[i] || got > 0 != test.gets[i] {
					t.Errorf("relay %d got %d of %d mails", i+1, got, messages)
				}
			}
		})
	}
}

// Of two equals the one with room gets the message.
func TestSend_prefersTheRelayWithRoom(t *testing.T) {
	t.Parallel()
	first, second := faulty(t), faulty(t)
	email := newEmail(t, plainURL(first)+"&priority=1&connections=2,"+plainURL(second)+"&priority=1&connections=2")
	var wg sync.WaitGroup
	begun, end := make(chan struct{}, 4), make(chan struct{})
	for range 4 {
		wg.Go(func() {
			h := handovers{do: func() { begun <- struct{}{}; <-end }}
			_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
			wantOutcome(t, err, outbox.Accepted)
		})
		select {
		case <-begun:
		case <-time.After(5 * time.Second):
			t.Error("a message waits, though there is room")
		}
	}
	close(end)
	wg.Wait()
	if a, b := len(first.Mails("")), len(second.Mails("")); a != 2 || b != 2 {
		t.Errorf("one got %d mails, the other %d", a, b)
	}
}

// A relay whose limit is reached keeps its mail from later priorities, but not
// from its equals.
func TestSend_keepsToTheRateOfARelay(t *testing.T) {
	t.Parallel()
	const all = 4
	for name, test := range map[string]struct {
		second string
		mails  [2]int // of four messages, at most
	}{
		"alone":               {"", [2]int{1, 0}},
		"before another":      {"&priority=7", [2]int{1, 0}},
		"with an equal":       {"&priority=1&rate=2/h", [2]int{1, 1}},
		"with an equal, free": {"&priority=1", [2]int{1, all}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := faulty(t), faulty(t)
			urls := plainURL(first) + "&rate=2/h"
			if test.second != "" {
				urls += " " + plainURL(second) + test.second
			}
			email := newEmail(t, urls)
			for range all {
				var h handovers
				_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
				if err != nil {
					if wait := wantUnavailable(t, err); wait < 5*time.Minute || wait > 10*time.Minute {
						t.Errorf("to come back in %s", wait)
					}
				}
			}
			if a, b := len(first.Mails("")), len(second.Mails("")); a > test.mails[0] || b > test.mails[1] || a+b != min(all, test.mails[0]+test.mails[1]) {
				t.Errorf("one got %d mails, the other %d; want %v", a, b, test.mails)
			}
		})
	}
}

// An equal that would take the message at once comes before one that makes it
// wait.
func TestSend_prefersTheRelayThatIsNotBusy(t *testing.T) {
	t.Parallel()
	first, second := faulty(t), faulty(t)
	email := newEmail(t, plainURL(first)+"&priority=1&rate=1,"+plainURL(second)+"&priority=1")
	for range 20 {
		_ = send(t, email, outbox.Accepted)
	}
	if got := len(first.Mails("")); got > 4 {
		t.Errorf("the busy one got %d of 20 mails", got)
	}
}

// The wait is the shortest of all that is waited for.
func TestSend_comesBackForTheLimitBeforeTheBreaker(t *testing.T) {
	t.Parallel()
	first, second := faulty(t, mailbox.Fault{At: mailbox.EHLO, Reply: "554 no"}), faulty(t)
	email := newEmail(t, plainURL(first)+","+plainURL(second)+"&rate=60/h", breaks(time.Hour))
	_ = send(t, email, outbox.Accepted)
	_, err := email.Send(t.Context(), invitation("ada@example.com"), noHandover(t))
	if wait := wantUnavailable(t, err); wait > time.Minute || wait < 50*time.Second {
		t.Errorf("to come back in %s", wait)
	}
}

// While no relay can be used, no turn of a domain is used up.
func TestSend_keepsTheTurnsOfADomainForLater(t *testing.T) {
	t.Parallel()
	box := faulty(t, mailbox.Fault{At: mailbox.Greeting, Reply: "554 no", Times: 1})
	email := newEmail(t, plainURL(box), breaks(200*time.Millisecond), func(c *sender.EmailConfig) {
		c.DomainRates = map[string]sender.Rate{"*": {Messages: 1, Per: time.Hour}}
	})
	_, err := email.Send(t.Context(), invitation("ada@example.com"), noHandover(t))
	wantUnavailable(t, err)
	var h handovers
	for err = errors.New("not tried"); err != nil; {
		if _, err = email.Send(t.Context(), invitation("ada@example.org"), h.record); err == nil {
			break
		}
		if wait := wantUnavailable(t, err); wait > time.Second {
			t.Fatalf("to come back in %s", wait)
		}
		comeBack(err)
	}
}

func TestSend_waitsForItsTurn(t *testing.T) {
	t.Parallel()
	box := faulty(t)
	email := newEmail(t, plainURL(box)+"&rate=5")
	began := time.Now()
	for range 3 {
		_ = send(t, email, outbox.Accepted)
	}
	if took := time.Since(began); took < 390*time.Millisecond {
		t.Errorf("three messages at 5 a second took %s", took)
	}
}

func TestSend_keepsToTheRateOfADomain(t *testing.T) {
	t.Parallel()
	box := faulty(t)
	email := newEmail(t, plainURL(box), func(c *sender.EmailConfig) {
		c.DomainRates = map[string]sender.Rate{"gmail.com": {Messages: 1, Per: time.Minute}, "bücher.example": {Messages: 1, Per: time.Minute}, "*": {Messages: 2, Per: time.Minute}}
	})
	for _, test := range []struct {
		to   string
		wait time.Duration // 0: it is sent
	}{
		{"ada@gmail.com", 0},
		{"eve@GMAIL.com", time.Minute},
		{"ada@bücher.example", 0},
		{"eve@xn--bcher-kva.example", time.Minute},
		{"ada@example.com", 0},
		{"ada@example.org", 0},
		{"eve@example.org", 30 * time.Second},
	} {
		before := len(box.Mails(""))
		var h handovers
		_, err := email.Send(t.Context(), invitation(test.to), h.record)
		if test.wait == 0 {
			wantOutcome(t, err, outbox.Accepted)
			continue
		}
		if wait := wantUnavailable(t, err); wait > test.wait || wait < test.wait*9/10 || len(box.Mails("")) != before || h.count() != 0 {
			t.Errorf("%s: to come back in %s, want %s", test.to, wait, test.wait)
		}
	}
}

// What asks for patience halves the connections, greylisting does not, and twenty
// messages bring one back.
func TestSend_followsTheRelaysPace(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		url    string // more of it
		fault  mailbox.Fault
		times  int
		atOnce bool // all these times together
		limit  int  // connections that can be open afterwards
		pauses int  // messages accepted before we look
	}{
		"at first":            {limit: 4},
		"twenty messages":     {limit: 5, pauses: 20},
		"no more than is set": {limit: 6, pauses: 100},
		"421 at the dot":      {fault: mailbox.Fault{At: mailbox.Dot, Reply: "421 4.3.2 bye", Close: true}, times: 1, limit: 2},
		"421 at the greeting": {fault: mailbox.Fault{At: mailbox.Greeting, Reply: "421 4.3.2 busy", Close: true}, times: 2, limit: 1},
		"454 at DATA":         {fault: mailbox.Fault{At: mailbox.Data, Reply: "454 4.7.0 throttled"}, times: 4, limit: 1},
		"450 4.7.1 at MAIL":   {fault: mailbox.Fault{At: mailbox.MailFrom, Reply: "450 4.7.1 slow down"}, times: 1, limit: 2},
		"450 4.7.1 at RCPT":   {fault: mailbox.Fault{At: mailbox.Rcpt, Reply: "450 4.7.1 greylisted"}, times: 7, limit: 4},
		"421 to all at once":  {fault: mailbox.Fault{At: mailbox.Greeting, Reply: "421 4.3.2 busy", Close: true, Delay: 300 * time.Millisecond}, times: 4, atOnce: true, limit: 2},
		"one by the URL":      {url: "&connections=1", limit: 1},
		"and back":            {fault: mailbox.Fault{At: mailbox.Dot, Reply: "451 4.7.1 slow down"}, times: 2, limit: 3, pauses: 40},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.fault.Times = test.times
			var faults []mailbox.Fault
			if test.times > 0 {
				faults = append(faults, test.fault)
			}
			email := newEmail(t, plainURL(faulty(t, faults...))+test.url, func(c *sender.EmailConfig) { c.Connections = 6 })
			var wg sync.WaitGroup
			for range test.times {
				wg.Go(func() {
					var h handovers
					_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
					wantOutcome(t, err, outbox.Deferred)
				})
				if !test.atOnce {
					wg.Wait()
				}
			}
			wg.Wait()
			for range test.pauses {
				_ = send(t, email, outbox.Accepted)
			}
			begun, end := make(chan struct{}, test.limit), make(chan struct{})
			for range test.limit {
				wg.Go(func() {
					h := handovers{do: func() { begun <- struct{}{}; <-end }}
					_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
					wantOutcome(t, err, outbox.Accepted)
				})
				select {
				case <-begun:
				case <-time.After(5 * time.Second):
					t.Errorf("fewer than %d connections can be open", test.limit)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := email.Send(ctx, invitation("ada@example.com"), noHandover(t))
			wantOutcome(t, err, outbox.Deferred)
			close(end)
			wg.Wait()
		})
	}
}

// When the limit falls, the connections above it are closed, whether they wait
// or come back later.
func TestSend_closesTheConnectionsAboveItsLimit(t *testing.T) {
	t.Parallel()
	for name, bye := range map[string]string{"they wait": "later@example.com", "they come back later": "ada0@example.com"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box := faulty(t, mailbox.Fault{At: mailbox.Dot, To: bye, Reply: "421 4.3.2 bye", Close: true})
			email := newEmail(t, plainURL(box), func(c *sender.EmailConfig) { c.IdleTimeout = time.Hour })
			var wg sync.WaitGroup
			begun, end, first := make(chan struct{}, 4), make(chan struct{}), make(chan struct{})
			for n := range 4 {
				to := fmt.Sprintf("ada%d@example.com", n)
				wait := end
				if to == bye {
					wait = first
				}
				wg.Go(func() {
					h := handovers{do: func() { begun <- struct{}{}; <-wait }}
					_, err := email.Send(t.Context(), invitation(to), h.record)
					if to == bye {
						close(end)
					} else {
						wantOutcome(t, err, outbox.Accepted)
					}
				})
			}
			for range 4 {
				<-begun
			}
			if close(first); bye == "later@example.com" {
				close(end)
				wg.Wait()
				var h handovers
				_, err := email.Send(t.Context(), invitation(bye), h.record)
				wantOutcome(t, err, outbox.Deferred)
			}
			wg.Wait()
			deadline := time.After(5 * time.Second)
			for tick := time.NewTicker(5 * time.Millisecond); box.Open() > 2; {
				select {
				case <-tick.C:
				case <-deadline:
					t.Fatalf("%d connections are open", box.Open())
				}
			}
		})
	}
}
