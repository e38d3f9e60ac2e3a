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
// The limit follows how the relay does: it begins low, falls by half when the
// relay asks for patience, and grows by one for every 20 messages it takes.
type pool struct {
	maxMails int
	maxAge   time.Duration
	maxIdle  time.Duration
	most     int // that limit may grow to

	done chan struct{} // closed by close

	mu      sync.Mutex
	limit   int
	used    int          // slots that are taken
	queue   []chan *slot // who waits for a slot, first come first served
	taken   int          // messages in a row since limit changed
	cutAt   time.Time    // when limit fell the last time
	idle    []*conn      // the one used last is at the end
	closing bool
}

const (
	firstConnections = 4
	growAfter        = 20 // messages
)

func newPool(size, maxMails int, maxAge, maxIdle time.Duration) *pool {
	return &pool{
		maxMails: maxMails, maxAge: maxAge, maxIdle: maxIdle,
		most: size, limit: min(size, firstConnections),
		done: make(chan struct{}),
	}
}

// slot is the right to use one connection.
type slot struct {
	pool *pool
	conn *conn // nil if there is none
}

// acquire waits for a slot. It comes with a connection, if one is waiting.
func (p *pool) acquire(ctx context.Context) (*slot, error) {
	select {
	case <-p.done:
		return nil, ErrClosed
	default:
	}
	turn := p.enqueue()
	select {
	case s := <-turn:
		return s, nil
	case <-p.done:
		p.giveUp(turn)
		return nil, ErrClosed
	case <-ctx.Done():
		p.giveUp(turn)
		return nil, fmt.Errorf("waiting for a connection: %w", context.Cause(ctx))
	}
}

func (p *pool) enqueue() chan *slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	turn := make(chan *slot, 1)
	p.queue = append(p.queue, turn)
	p.admit()
	return turn
}

// admit gives free slots to those who wait.
func (p *pool) admit() {
	for p.used < p.limit && len(p.queue) > 0 {
		p.queue[0] <- &slot{p, p.pop()}
		p.queue = p.queue[1:]
		p.used++
	}
}

// giveUp leaves the queue, and passes on a slot that came at the same moment.
func (p *pool) giveUp(turn chan *slot) {
	p.mu.Lock()
	i := slices.Index(p.queue, turn)
	if i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 {
		(<-turn).release()
	}
}

// take gives a waiting connection that looks alive, or nil.
func (s *slot) take() *conn {
	for s.conn != nil {
		switch {
		case time.Since(s.conn.since) >= s.pool.maxAge:
			s.conn.quit()
		case s.conn.idleError() != nil:
			s.conn.abort()
		default:
			return s.conn
		}
		s.pool.mu.Lock()
		s.conn = s.pool.pop()
		s.pool.mu.Unlock()
	}
	return nil
}

// release gives the slot back. Its connection is kept for the next message, or
// closed.
func (s *slot) release() {
	if !s.pool.free(s.conn) {
		s.close()
	}
}

// close closes the connection: with QUIT if a new message could begin on it,
// without a word if not.
func (s *slot) close() {
	switch {
	case s.conn == nil:
	case s.conn.clean:
		s.conn.quit()
	default:
		s.conn.abort()
	}
	s.conn = nil
}

// free takes a slot back, and reports whether its connection was kept.
func (p *pool) free(c *conn) (kept bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used--
	if c != nil && c.clean && c.mails < p.maxMails && time.Since(c.since) < p.maxAge && !p.closing && p.used+len(p.idle) < p.limit {
		c.idle = time.AfterFunc(p.maxIdle, func() { p.expire(c) })
		p.idle = append(p.idle, c)
		kept = true
	}
	p.admit()
	return kept
}

// count counts a message that the relay has taken, or notes that it failed.
func (p *pool) count(taken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken++; !taken {
		p.taken = 0
	}
	if p.taken >= growAfter && p.limit < p.most {
		p.limit++
		p.taken = 0
		p.admit()
	}
}

// halve halves the limit, because of a conversation that began at the given
// time. Those that began before the limit fell tell nothing new.
func (p *pool) halve(began time.Time) {
	p.mu.Lock()
	p.taken = 0
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

// load is how much of the limit is taken or waited for.
func (p *pool) load() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return float64(p.used+len(p.queue)) / float64(p.limit)
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
