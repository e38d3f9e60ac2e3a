package sender

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// usable is an error while no relay may be tried.
func (e *Email) usable() error {
	j := journey{relays: len(e.routes)}
	for _, r := range e.routes {
		wait := r.breaker.wait()
		if wait == 0 {
			return nil
		}
		j.add(r, outbox.Reply{}, notTried(errBroken, wait))
	}
	return j.end()
}

// admit waits for the turn of a recipient domain.
func (e *Email) admit(ctx context.Context, env envelope) error {
	domain := env.domain()
	wait, err := e.domains.of(domain).wait(ctx, env.flow)
	switch {
	case err != nil:
		return (&failure{phase: phaseConnect, err: err}).sendError()
	case wait > 0:
		return &outbox.Unavailable{RetryAfter: wait, Err: fmt.Errorf("mail to %s: %w", domain, errRate)}
	default:
		return nil
	}
}

// deliver offers the envelope to one relay after the other, until one takes it or
// says something about the message itself. Once handover was called there is no
// next relay: the attempt is on record, and what became of it stands.
//
// A relay that is only busy does not send its mail on to relays of a later
// priority: they are for the time when it fails.
func (e *Email) deliver(ctx context.Context, m *outbox.Message, env envelope, handover outbox.Handover) (outbox.Reply, error) {
	handedOver := false
	once := func(ctx context.Context, relay string) error {
		handedOver = true
		return handover(ctx, relay)
	}
	j := journey{relays: len(e.routes)}
	for _, r := range e.order() {
		if j.busy > 0 && r.priority > j.busy {
			break
		}
		reply, fail := r.send(ctx, env, once)
		if fail == nil {
			if j.tried > 0 {
				e.logger.WarnContext(ctx, "relay failed, another one took the message", "message_id", m.ID,
					"attempt", m.Attempt, "channel", m.Channel, "relay", reply.Relay, "error", j.err)
			}
			return reply, nil
		}
		j.add(r, reply, fail)
		if handedOver || !fail.elsewhere() {
			outcome, _ := classify(fail.phase, fail.reply)
			return j.reply, &outbox.SendError{Outcome: outcome, Err: j.err}
		}
	}
	return j.reply, j.end()
}

// order gives the relays as they should be tried: by priority, then those whose
// limit allows a message now, then those with the most room. Chance decides
// between equals.
func (e *Email) order() []*route {
	if len(e.routes) == 1 {
		return e.routes
	}
	type place struct {
		route *route
		busy  int     // 1 if it is, or was when we looked
		load  float64 // the same
	}
	places := make([]place, len(e.routes))
	for i, r := range e.routes {
		places[i] = place{route: r, load: r.pool.load()}
		if r.limit.busy() {
			places[i].busy = 1
		}
	}
	rand.Shuffle(len(places), func(i, k int) { places[i], places[k] = places[k], places[i] })
	slices.SortStableFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.route.priority, b.route.priority), cmp.Compare(a.busy, b.busy), cmp.Compare(a.load, b.load))
	})
	routes := make([]*route, len(places))
	for i, p := range places {
		routes[i] = p.route
	}
	return routes
}

// journey is what became of a message at the relays so far, while none of them
// has taken it.
type journey struct {
	relays  int // there are
	tried   int
	refused int // of those tried: how many refuse us
	denied  int // of those tried: how many do not relay to this recipient

	reply      outbox.Reply  // of the one tried last
	err        error         // of all
	retryAfter time.Duration // the shortest of those that were not tried, or that refuse us
	busy       int           // the priority of one whose limit is reached
}

func (j *journey) add(r *route, reply outbox.Reply, fail *failure) {
	err, wait := fail.cause(), fail.retryAfter
	switch {
	case wait > 0:
		err = fail.err
		if err == errRate { //nolint:errorlint // nobody wraps it
			j.busy = r.priority
		}
	default:
		j.tried++
		j.reply = reply
		switch fail.blame() {
		case blameRefusal:
			j.refused++
			wait = cmp.Or(r.breaker.wait(), r.breaker.shortest)
		case blameDenial:
			j.denied++
		}
	}
	if wait > 0 && (j.retryAfter == 0 || wait < j.retryAfter) {
		j.retryAfter = wait
	}
	if j.relays > 1 || fail.retryAfter > 0 {
		err = fmt.Errorf("%s: %w", r.name(), err)
	}
	if j.err != nil {
		err = fmt.Errorf("%w; %w", j.err, err)
	}
	j.err = err
}

// end is the error of a message that every relay has sent on. A relay that
// refuses us says nothing about it, so if that is all there is, it was not even
// an attempt. That relaying is denied is believed when all of them say so.
func (j *journey) end() error {
	switch {
	case j.denied == j.relays:
		return &outbox.SendError{Outcome: outbox.Rejected, Err: j.err}
	case j.tried > j.refused:
		return &outbox.SendError{Outcome: outbox.Deferred, Err: j.err}
	default:
		return &outbox.Unavailable{RetryAfter: j.retryAfter, Err: j.err}
	}
}
