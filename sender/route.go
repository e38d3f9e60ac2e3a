package sender

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// Why a relay was not tried.
var (
	errBroken = errors.New("it failed a moment ago, and is left alone for a while")
	errRate   = errors.New("its limit of messages is reached")
)

// route is one relay with all that we know of it.
type route struct {
	priority int // lower first
	dialer   dialer
	pool     *pool
	breaker  *breaker
	limit    *limit // nil if there is none
	denials  denials
	logger   *slog.Logger
}

func (r *route) name() string { return r.dialer.relay.Addr() }

// send offers env to the relay. That it has no room for one more connection is no
// answer, as long as there are others: env waits for one of them. Each time the
// pool has become smaller, so that comes to an end.
func (r *route) send(ctx context.Context, env envelope, handover outbox.Handover) (outbox.Reply, *failure) {
	for {
		reply, fail := r.try(ctx, env, handover)
		if fail == nil || !fail.crowded {
			return reply, fail
		}
	}
}

// try offers env to the relay, if breaker and limit allow it. The slot comes
// first, so that who waited for one sees the breaker as it is then.
func (r *route) try(ctx context.Context, env envelope, handover outbox.Handover) (reply outbox.Reply, fail *failure) {
	if wait := r.breaker.wait(); wait > 0 {
		return outbox.Reply{}, notTried(errBroken, wait)
	}
	s, err := r.pool.acquire(ctx, &env)
	if err != nil {
		return outbox.Reply{}, &failure{phase: phaseConnect, err: err, ours: true}
	}
	defer s.release()
	round, wait := r.breaker.enter()
	if wait > 0 {
		return outbox.Reply{}, notTried(errBroken, wait)
	}
	verdict := noVerdict // which stands if handover panics
	defer func() { r.log(r.breaker.leave(round, verdict), verdict, fail) }()
	wait, err = r.limit.wait(ctx, env.flow)
	switch {
	case err != nil:
		return outbox.Reply{}, &failure{phase: phaseConnect, err: err, ours: true}
	case wait > 0:
		return outbox.Reply{}, notTried(errRate, wait)
	}
	began := time.Now()
	reply, fail = r.converse(ctx, s, env, handover)
	verdict = r.judge(env, began, s, fail)
	return reply, fail
}

// next gives the envelope to be offered behind the dot of the message that has
// the slot. One that would have to wait for a turn, or for the outcome of a
// trial, is none.
func (r *route) next(s *slot) *envelope {
	if r.limit != nil || !r.breaker.isClosed() {
		return nil
	}
	return s.follow()
}

func notTried(why error, retryAfter time.Duration) *failure {
	return &failure{phase: phaseConnect, err: why, ours: true, retryAfter: retryAfter}
}

// converse finds a connection for the envelope. One that has been used before may
// have died unnoticed; then, and only before anything was offered, a fresh one
// gets its chance.
func (r *route) converse(ctx context.Context, s *slot, env envelope, handover outbox.Handover) (reply outbox.Reply, fail *failure) {
	next := func() *envelope { return r.next(s) }
	if s.take() != nil {
		reply, fail = s.conn.send(ctx, env, handover, next)
	}
	if s.conn == nil || fail != nil && fail.stale {
		s.close()
		if s.conn, fail = r.dialer.dial(ctx); fail == nil {
			reply, fail = s.conn.send(ctx, env, handover, next)
		}
	}
	if fail != nil {
		reply = fail.reply
	}
	reply.Relay = r.name()
	return reply, fail
}

// judge draws the conclusions from a conversation: how many connections the
// relay may have, and whether it works.
func (r *route) judge(env envelope, began time.Time, s *slot, fail *failure) verdict {
	if fail == nil {
		r.denials.note(env.domain(), false)
		r.pool.count(true, s.conn.took)
		return works
	}
	if fail.phase > phaseRcpt || fail.phase == phaseRcpt && fail.reply.Code != 0 && fail.reply.Code != 421 {
		denied := fail.phase == phaseRcpt && denies(fail.reply)
		fail.refused = r.denials.note(env.domain(), denied)
	}
	verdict := fail.blame().verdict()
	switch {
	case fail.phase == phaseConnect && fail.reply.Code == 421 && r.pool.works():
		fail.crowded = true
		r.pool.halve(began)
		return noVerdict
	case fail.throttles():
		r.pool.halve(began)
	case verdict == fails || verdict == refusesUs:
		r.pool.count(false, 0)
	}
	return verdict
}

// log reports when a relay is left alone, and when it is used again. That it
// refuses us is an alarm: an operator has to act, and hears of it once each time
// the relay is tried again.
func (r *route) log(c change, v verdict, fail *failure) {
	switch {
	case c == closed:
		r.logger.Info("relay works again", "relay", r.name())
	case c == opened && v == refusesUs:
		r.logger.Error("relay refuses us", "relay", r.name(), "retry_after", r.breaker.wait(),
			"code", fail.reply.Code, "enhanced", fail.reply.Enhanced, "error", fail.cause())
	case c == opened:
		r.logger.Warn("relay fails", "relay", r.name(), "retry_after", r.breaker.wait(),
			"code", fail.reply.Code, "enhanced", fail.reply.Enhanced, "error", fail.cause())
	}
}

// Ten recipients in a row denied, of five domains or more, are evidence that a
// relay refuses us, and not these recipients.
const (
	denialsInRow   = 10
	denialsDomains = 5
)

// denials remembers the recipients that a relay has denied in a row.
type denials struct {
	mu      sync.Mutex
	domains []string // of the last ones, oldest first
}

// note takes the next answer to RCPT, and reports whether the relay refuses us.
func (d *denials) note(domain string, denied bool) (refused bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !denied {
		d.domains = nil
		return false
	}
	d.domains = append(d.domains, domain)
	if len(d.domains) > denialsInRow {
		d.domains = d.domains[1:]
	}
	different := map[string]bool{}
	for _, domain := range d.domains {
		different[domain] = true
	}
	return len(d.domains) == denialsInRow && len(different) >= denialsDomains
}
