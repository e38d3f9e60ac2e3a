package sender

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// ErrClosed is the error of a Send after Close.
var ErrClosed = errors.New("the sender is closed")

// pool keeps connections for the next message. At most limit of them are open,
// in use or waiting: a slot is needed to use one, and a new one is opened only
// when none is waiting.
//
// The limit follows how the relay does. It begins low, and grows by one for every
// message that is taken while others wait, as long as that does not make the
// messages slower. Once the relay has asked for patience, it has fallen by half,
// and grows by one for every 20 messages.
type pool struct {
	maxMails int
	maxAge   time.Duration
	maxIdle  time.Duration
	most     int // that limit may grow to

	done chan struct{} // closed by close

	mu       sync.Mutex
	limit    int
	used     int           // slots that are taken
	queue    line          // who waits for a slot
	ahead    int           // waiters whose envelope is offered behind a dot already
	late     bool          // the last dot was answered late
	patience bool          // the relay has asked for it
	quickest time.Duration // a message has taken, from MAIL to the answer to its dot
	taken    int           // messages in a row since limit changed
	takenAt  time.Time     // when the last one was
	cutAt    time.Time     // when limit fell the last time
	idle     []*conn       // the one used last is at the end
	closing  bool
}

const (
	firstConnections = 4
	growAfter        = 20 // messages
	slowedBy         = 3
)

func newPool(size, maxMails int, maxAge, maxIdle time.Duration) *pool {
	return &pool{
		maxMails: maxMails, maxAge: maxAge, maxIdle: maxIdle,
		most: size, limit: min(size, firstConnections),
		done: make(chan struct{}),
	}
}

// waiter is a message that waits for a slot. It stands in the queue until it gets
// one, or until its envelope is offered behind the dot of another message: then it
// waits for the slot of that one.
type waiter struct {
	env   *envelope
	round int // in which it has its turn, see line
	turn  chan *slot
	ahead *slot // the one whose connection has the envelope already
}

// acquire waits for a slot for env. It comes with a connection, if one is waiting.
func (p *pool) acquire(ctx context.Context, env *envelope) (*slot, error) {
	select {
	case <-p.done:
		return nil, ErrClosed
	default:
	}
	w := p.enqueue(env)
	select {
	case s := <-w.turn:
		return s, nil
	case <-p.done:
		p.giveUp(w)
		return nil, ErrClosed
	case <-ctx.Done():
		p.giveUp(w)
		return nil, fmt.Errorf("waiting for a connection: %w", context.Cause(ctx))
	}
}

func (p *pool) enqueue(env *envelope) *waiter {
	w := &waiter{env: env, turn: make(chan *slot, 1)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue.join(w)
	p.admit()
	return w
}

// admit gives free slots to those who wait.
func (p *pool) admit() {
	for p.used < p.limit && len(p.queue) > 0 {
		p.queue.first().turn <- &slot{pool: p, conn: p.pop()}
		p.used++
	}
}

// giveUp leaves the queue, or the slot that was to come, and passes on a slot that
// came at the same moment.
func (p *pool) giveUp(w *waiter) {
	p.mu.Lock()
	i := slices.Index(p.queue, w)
	ahead := w.ahead != nil
	if i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
	}
	if ahead {
		p.ahead--
		w.ahead = nil
	}
	p.mu.Unlock()
	if i < 0 && !ahead {
		(<-w.turn).release()
	}
}

// free takes a slot back, or passes it on, and reports whether its connection was
// kept.
func (p *pool) free(s *slot) (kept bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !s.dotAt.IsZero() {
		p.late = time.Since(s.dotAt) > lateDot
	}
	if p.passOn(s) {
		return true
	}
	p.used--
	if c := s.conn; c != nil && c.clean && p.fit(c) && !p.closing && p.used+len(p.idle) < p.limit {
		c.idle = time.AfterFunc(p.maxIdle, func() { p.expire(c) })
		p.idle = append(p.idle, c)
		kept = true
	}
	p.admit()
	return kept
}

// fit reports whether c may have another message.
func (p *pool) fit(c *conn) bool { return c.mails < p.maxMails && time.Since(c.since) < p.maxAge }

// count counts a message that the relay has taken in the given time, or notes
// that it failed.
func (p *pool) count(taken bool, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken++; !taken {
		p.taken = 0
		return
	}
	p.takenAt = time.Now()
	if p.quickest == 0 || took < p.quickest {
		p.quickest = took
	}
	// Messages that take longer than they could are in each other's way, here or
	// at the relay: then more of them at a time is no help.
	quickly := !p.patience && len(p.queue) > 0 && took <= slowedBy*p.quickest
	if (quickly || p.taken >= growAfter) && p.limit < p.most {
		p.limit++
		p.taken = 0
		p.admit()
	}
}

// halve halves the limit, because of a conversation that began at the given
// time. Those that began before the limit fell tell nothing new.
func (p *pool) halve(began time.Time) {
	p.mu.Lock()
	p.taken, p.patience = 0, true
	var surplus []*conn
	if began.After(p.cutAt) {
		p.limit, p.cutAt = max(1, p.limit/2), time.Now()
		n := min(len(p.idle), max(0, p.used+len(p.idle)-p.limit))
		surplus = p.idle[:n:n]
		p.idle = p.idle[n:]
	}
	p.mu.Unlock()
	for _, c := range surplus {
		c.idle.Stop()
		c.quit()
	}
}

// works reports whether the relay works on connections other than the caller's.
func (p *pool) works() bool {
	const lately = time.Second
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used > 1 && time.Since(p.takenAt) < lately
}

// load is how much of the limit is taken or waited for.
func (p *pool) load() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return float64(p.used+len(p.queue)+p.ahead) / float64(p.limit)
}

// pop gives the connection that has waited least, or nil.
func (p *pool) pop() *conn {
	if len(p.idle) == 0 {
		return nil
	}
	c := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	c.idle.Stop()
	return c
}

// expire closes c if it is still waiting.
func (p *pool) expire(c *conn) {
	if p.remove(c) {
		c.quit()
	}
}

func (p *pool) remove(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.idle, c)
	if i < 0 {
		return false
	}
	p.idle = slices.Delete(p.idle, i, i+1)
	return true
}

// close closes what is waiting. Connections in use are closed by release.
func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	if !p.closing {
		p.closing = true
		close(p.done)
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.idle.Stop()
		c.quit()
	}
}
