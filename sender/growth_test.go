package sender_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// sendMany sends n messages at once, and wants that all are accepted.
func sendMany(t *testing.T, email *sender.Email, n int) {
	t.Helper()
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			_, err := email.Send(t.Context(), invitation("ada@example.com"), func(context.Context, string) error { return nil })
			wantOutcome(t, err, outbox.Accepted)
		})
	}
	all.Wait()
}

// A relay that takes 200 ms for a message gets, within a few messages on each, the
// connections it takes to send it 100 a second.
func TestPool_growsQuicklyWhileMessagesWait(t *testing.T) {
	t.Parallel()
	for _, extension := range []string{"PIPELINING", "SIZE"} {
		t.Run(extension, func(t *testing.T) {
			t.Parallel()
			relay := startLeanRelay(t, &leanRelay{thinks: 50 * time.Millisecond}, extension)
			email := newEmail(t, relay.url)
			began := time.Now()
			sendMany(t, email, 150) // 7.5 s over 4 connections
			if took := time.Since(began); relay.most.Load() < 24 || took > 5*time.Second {
				t.Errorf("it took %s over %d connections", took, relay.most.Load())
			}
			_ = email.Close()
		})
	}
}

// Nobody waits, so nothing is opened, however many there could be.
func TestPool_opensNothingThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	relay := startLeanRelay(t, &leanRelay{thinks: 5 * time.Millisecond}, "PIPELINING")
	email := newEmail(t, relay.url)
	for range 30 {
		sendMany(t, email, 2)
	}
	if most := relay.most.Load(); most > 2 {
		t.Errorf("%d connections for two messages at a time", most)
	}
	_ = email.Close()
}

// Once the relay has asked for patience, twenty messages bring one connection back.
func TestPool_growsSlowlyAfterTheRelayAskedForPatience(t *testing.T) {
	t.Parallel()
	box := faulty(t,
		mailbox.Fault{At: mailbox.Dot, Reply: "451 4.7.1 slow down", To: "slow", Times: 1},
		mailbox.Fault{At: mailbox.MailFrom, Delay: 20 * time.Millisecond})
	email := newEmail(t, plainURL(box))
	var h handovers
	_, err := email.Send(t.Context(), invitation("slow@example.com"), h.record)
	wantOutcome(t, err, outbox.Deferred)
	sendMany(t, email, 50)
	if connections := box.Connections(); connections > 4 {
		t.Errorf("%d connections", connections)
	}
	_ = email.Close()
	waitUntilClosed(t, box)
}

// A relay that has no room for one more connection works all the same: the message
// waits for one of those there are, and nothing counts as failed.
func TestPool_makesDoWithTheRoomThatTheRelayHas(t *testing.T) {
	t.Parallel()
	const room = 6
	var open, refused atomic.Int32
	p := startPeer(t, func(_ int, s *session) {
		defer open.Add(-1)
		if open.Add(1) > room {
			refused.Add(1)
			s.say("421 4.7.0 too many connections")
			s.hangUp()
			return
		}
		s.greet("PIPELINING")
		for !s.ended() {
			s.envelope()
			s.dot()
			<-time.After(20 * time.Millisecond)
			s.say("250 ok")
		}
	})
	email := newEmail(t, p.url(), breaks(time.Hour))
	sendMany(t, email, 100)
	if refused.Load() == 0 {
		t.Error("no connection was refused")
	}
	_ = email.Close()
}
