package sender

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrClosed is the error of a Send after Close.
var ErrClosed = errors.New("the sender is closed")

// pool keeps connections for the next message. At most size of them are open,
// in use or waiting: a slot is needed to use one, and a new one is opened only
// when none is waiting.
type pool struct {
	maxMails int
	maxAge   time.Duration
	maxIdle  time.Duration

	slots chan struct{}
	done  chan struct{} // closed by close

	mu     sync.Mutex
	idle   []*conn // the one used last is at the end
	closed bool
}

func newPool(size, maxMails int, maxAge, maxIdle time.Duration) *pool {
	return &pool{
		maxMails: maxMails, maxAge: maxAge, maxIdle: maxIdle,
		slots: make(chan struct{}, size),
		done:  make(chan struct{}),
	}
}

// acquire waits for a slot.
func (p *pool) acquire(ctx context.Context) error {
	select {
	case <-p.done:
		return ErrClosed
	default:
	}
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-p.done:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("waiting for a connection: %w", context.Cause(ctx))
	}
}

func (p *pool) release() { <-p.slots }

// take gives a waiting connection that looks alive, or nil.
func (p *pool) take() *conn {
	for {
		c := p.pop()
		if c == nil {
			return nil
		}
		switch {
		case time.Since(c.since) >= p.maxAge:
			c.quit()
		case c.idleError() != nil:
			c.abort()
		default:
			return c
		}
	}
}

func (p *pool) pop() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	c := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	c.idle.Stop()
	return c
}

// put keeps c for the next message, or closes it: with QUIT if a new message
// could begin on it, without a word if not.
func (p *pool) put(c *conn) {
	switch {
	case !c.clean:
		c.abort()
	case c.mails >= p.maxMails || time.Since(c.since) >= p.maxAge || !p.push(c):
		c.quit()
	}
}

func (p *pool) push(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	c.idle = time.AfterFunc(p.maxIdle, func() { p.expire(c) })
	p.idle = append(p.idle, c)
	return true
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
	for i, other := range p.idle {
		if other == c {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			return true
		}
	}
	return false
}

// close closes what is waiting. Connections in use are closed by put.
func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	if !p.closed {
		p.closed = true
		close(p.done)
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.idle.Stop()
		c.quit()
	}
}
