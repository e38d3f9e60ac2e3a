package sender

import (
	"slices"
	"time"
)

// An answer to the dot that takes long keeps who waits behind it no longer than
// longDot, and while answers come later than lateDot nobody is made to wait: next
// to them a round trip is nothing.
const (
	lateDot = 500 * time.Millisecond
	longDot = 2 * time.Second
)

// slot is the right to use one connection.
type slot struct {
	pool *pool
	conn *conn // nil if there is none

	dotAt time.Time   // when the message that has the slot sent its dot
	next  *waiter     // whose envelope went out behind it
	timer *time.Timer // ends the wait of next
}

// take gives a waiting connection that looks alive, or nil.
func (s *slot) take() *conn {
	for s.conn != nil {
		switch {
		case s.conn.ahead: // alive a moment ago
			return s.conn
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

// follow gives the envelope of the message whose turn is next, to be offered on
// the slot's connection behind the dot, and nil if nobody waits or the connection
// is not to be used once more. release passes the slot on to that message.
func (s *slot) follow() *envelope {
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	s.dotAt = time.Now()
	if len(p.queue) == 0 || p.used > p.limit || p.late || p.closing || !p.fit(s.conn) {
		return nil
	}
	w := p.queue.first()
	w.ahead, s.next = s, w
	p.ahead++
	s.timer = time.AfterFunc(longDot, s.overtake)
	return w.env
}

// overtake puts who waits behind the dot back to the head of the queue.
func (s *slot) overtake() {
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := s.next; w.ahead == s {
		p.late = true
		p.requeue(w)
		p.admit()
	}
}

// passOn gives the slot to the message whose envelope is offered on its
// connection already. If the connection has come to nothing that message, of
// which no byte was sent, is the first to get another one. Nobody can use a
// connection on which a message was offered that does not wait any more: it stays
// unclean, and is closed.
func (p *pool) passOn(s *slot) bool {
	w := s.next
	if w == nil || w.ahead != s {
		return false
	}
	if !s.conn.ahead {
		p.requeue(w)
		return false
	}
	p.ahead--
	w.ahead = nil
	w.turn <- &slot{pool: p, conn: s.conn}
	return true
}

func (p *pool) requeue(w *waiter) {
	p.ahead--
	w.ahead = nil
	p.queue = slices.Insert(p.queue, 0, w)
}

// release gives the slot back. Its connection is kept for the next message, or
// closed.
func (s *slot) release() {
	if s.timer != nil {
		s.timer.Stop()
	}
	if !s.pool.free(s) {
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
