package sender

import (
	"sync"
	"time"
)

// maxFailures in a row open a breaker.
const maxFailures = 5

// longestOutage is the longest time between two trials of a relay that fails
// without refusing us: so late, at worst, its return is noticed.
const longestOutage = 30 * time.Second

// breaker keeps us from a relay that does not work. It opens after five failures
// in a row, or at once if the relay refuses us, and stays so for a while: the shortest time
// at first, doubling up to the longest (for a refusal) as long as the relay does not
// recover. Then one message at a time is the trial that closes it or opens it again.
type breaker struct {
	shortest, longest time.Duration

	mu       sync.Mutex
	round    int           // goes up whenever it opens or closes: news from an earlier round is old
	failures int           // in a row
	openFor  time.Duration // the time between opening and trial; 0 while it is closed
	trialAt  time.Time     // while it is open
	trial    bool          // one is under way
}

// verdict is what one conversation says about the relay.
type verdict int

const (
	noVerdict verdict = iota // it was we who did not go on
	works                    // it answers, whatever it thinks of the message
	fails
	refusesUs
)

// wait tells how long nothing may be sent; 0 means that something may. What
// comes out of a trial under way nobody knows: come back after the shortest time.
func (b *breaker) wait() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.remaining()
}

func (b *breaker) remaining() time.Duration {
	switch {
	case b.openFor == 0:
		return 0
	case b.trial:
		return b.shortest
	default:
		return max(0, time.Until(b.trialAt))
	}
}

// isClosed reports whether anything may be sent, and not only a trial.
func (b *breaker) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.openFor == 0
}

// enter begins a conversation, unless there is a wait. Its verdict goes to
// leave, with the round.
func (b *breaker) enter() (round int, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if wait := b.remaining(); wait > 0 {
		return 0, wait
	}
	b.trial = b.openFor > 0
	return b.round, 0
}

// change is what a verdict did to a breaker.
type change int

const (
	unchanged change = iota
	opened
	closed
)

// leave ends a conversation.
func (b *breaker) leave(round int, v verdict) change {
	b.mu.Lock()
	defer b.mu.Unlock()
	if round != b.round {
		return unchanged
	}
	b.trial = false
	open := b.openFor > 0
	switch v {
	case works:
		b.failures = 0
		if open {
			b.openFor = 0
			b.round++
			return closed
		}
	case fails, refusesUs:
		b.failures++
		if open || v == refusesUs || b.failures >= maxFailures {
			longest := b.longest
			if v == fails { // and may come back any moment; a refusal ends when somebody acts
				longest = min(longest, max(b.shortest, longestOutage))
			}
			b.openFor = min(max(2*b.openFor, b.shortest), longest)
			b.trialAt = time.Now().Add(b.openFor)
			b.round++
			return opened
		}
	}
	return unchanged
}
