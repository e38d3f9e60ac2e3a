//go:build unix

package torture

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/localpg/pgproxy"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// Parts of the statements that faults look for.
const (
	fetchSQL     = "WITH locked_jobs"
	openSQL      = "mailcrane.policy_for("
	handoverSQL  = "INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, relay, allowed_unknown, "
	closeSQL     = "INSERT INTO mailcrane.attempt AS a"
	heartbeatSQL = "INSERT INTO mailcrane.instance AS n"
)

// patience is how long a fault may take to find something to act on, be it that
// an outage has to end first.
func (r *round) patience() time.Duration { return time.Minute + r.outage(10*time.Minute) }

// lane is any daemon that sends.
func (r *round) lane() *daemon {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lanes[r.random.IntN(len(r.active()))]
}

// active are the daemons that send in this round.
func (r *round) active() []*daemon {
	if r.scenario.lanes > 0 {
		return r.lanes[:r.scenario.lanes]
	}
	return r.lanes
}

// act injects a fault into the relays of all daemons, and waits until it has
// acted so often in all. do, if it is not nil, is called with the daemon that it
// hits first, once.
func (r *round) act(ctx context.Context, fault mailbox.Fault, times int, do func(*daemon)) error {
	remove, acted := r.inject(fault, do)
	defer remove()
	return r.acted(ctx, fmt.Sprintf("something came to %s", fault.At), acted, times)
}

func (r *round) inject(fault mailbox.Fault, do func(*daemon)) (remove func(), acted *atomic.Int32) {
	var once sync.Once
	acted = &atomic.Int32{}
	return r.injectOn(fault, func(d *daemon) {
		if do != nil {
			once.Do(func() { do(d) })
		}
		acted.Add(1)
	}), acted
}

// injectOn injects a fault that calls do whenever it acts, with the daemon that
// it hits.
func (r *round) injectOn(fault mailbox.Fault, do func(*daemon)) (remove func()) {
	var removes []func()
	for _, d := range r.active() {
		for _, relay := range d.relays {
			f := fault
			f.Do = func() { do(d) }
			removes = append(removes, relay.Inject(f))
		}
	}
	return func() {
		for _, remove := range removes {
			remove()
		}
	}
}

func (r *round) acted(ctx context.Context, what string, acted *atomic.Int32, times int) error {
	return until(ctx, r.patience(), what, func(context.Context) (bool, error) { return int(acted.Load()) >= times, nil })
}

// sqlFault goes wrong with what a daemon says to PostgreSQL, as often as Times
// says, once by default.
type sqlFault struct {
	pgproxy.Fault
	rows bool          // only if the answer has rows
	word string        // and this in one of them
	do   func(*daemon) // called when it acts, with the daemon that it hits
}

// breakSQL injects a fault into the proxies of all daemons, and waits until it
// has acted as often as it should, in all.
func (r *round) breakSQL(ctx context.Context, fault sqlFault) error {
	acted, times := &atomic.Int32{}, max(1, fault.Times)
	for _, d := range r.active() {
		f := fault.Fault
		fits := &atomic.Bool{}
		fits.Store(!fault.rows)
		if fault.rows {
			f.Times = 0 // the proxy would count answers without rows
			f.Rewrite = func(values [][]byte) {
				has := func(value []byte) bool { return bytes.Contains(value, []byte(fault.word)) }
				fits.Store(fits.Load() || slices.ContainsFunc(values, has))
			}
		}
		f.Do = func() {
			if fits.Load() && int(acted.Add(1)) <= times && fault.do != nil {
				fault.do(d)
			}
		}
		remove := d.proxy.Inject(f)
		defer remove()
	}
	return r.acted(ctx, fmt.Sprintf("%q was executed", fault.Statement), acted, times)
}

// enqueue writes one message outside of the writers' plan. It is sent a moment
// later, so that a fault for it can be injected first.
func (r *round) enqueue(ctx context.Context, name, template string) (*letter, outbox.Receipt, error) {
	d := outbox.Draft{Recipient: fmt.Sprintf("%s-%s@torture.example", name, r.writers.prefix), Template: template, SendAfter: time.Now().Add(time.Second / 2)}
	switch template {
	case "verify":
		d.Data = map[string]any{"link": "https://torture.example/", "name": "Torture"}
	case "big":
		d.Data = map[string]any{"pages": make([]int, bigPages)}
	}
	receipt, err := outbox.Enqueue(ctx, r.pool, d)
	if err != nil {
		return nil, receipt, fmt.Errorf("enqueue: %w", err)
	}
	return r.writers.add(d.Recipient, committed), receipt, nil
}

// decideHeld does what an operator does with messages whose outcome is unknown:
// who knows that the mail has come marks it as sent, and releases the others.
// It gives their number.
func (r *round) decideHeld(ctx context.Context) (int, error) {
	rows, err := r.pool.Query(ctx, `
		SELECT m.id::text, m.recipient FROM mailcrane.message AS m WHERE m.finished_at IS NULL AND m.status = 'held' AND m.held_by = 'unknown'`)
	if err != nil {
		return 0, err
	}
	type held struct{ ID, Recipient string }
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[held])
	if err != nil {
		return 0, err
	}
	for _, h := range list {
		decide := outbox.ReleaseMessage
		if len(r.sink.of(h.Recipient)) > 0 {
			decide = outbox.MarkSent
		}
		if err := decide(ctx, r.pool, h.ID); err != nil {
			return 0, err
		}
	}
	return len(list), nil
}
