//go:build unix

package torture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mailcrane/mailcrane/outbox/localpg/pgproxy"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// pause stops daemons for longer than their lease, and lets them go on as if
// nothing had happened.
func pause(ctx context.Context, r *round) error {
	anywhere := func() error {
		d := r.lane()
		d.pause()
		defer d.resume()
		return r.wait(ctx, r.outage(30*time.Second))
	}
	afterHandover := func() error {
		stopped := make(chan *daemon, 1)
		stop := func(d *daemon) {
			d.pause()
			stopped <- d
		}
		if err := r.breakSQL(ctx, sqlFault{Fault: pgproxy.Fault{Statement: handoverSQL, At: pgproxy.Reply}, do: stop}); err != nil {
			return err
		}
		d := <-stopped
		defer d.resume()
		return r.wait(ctx, r.outage(30*time.Second))
	}
	return r.steps(ctx, anywhere, afterHandover, anywhere, afterHandover,
		func() error { return r.pauseAfterOpen(ctx, "overtaken") },
		func() error { return r.pauseAfterOpen(ctx, "caught") },
		func() error { return r.pauseAfterOpen(ctx, "met") },
	)
}

// pauseAfterOpen stops a daemon that has just loaded a message. Somebody else
// takes the message over. It is let go on when that one has sent it (overtaken),
// or while that one waits for an answer, which is "not now" (caught), or yes (met).
func (r *round) pauseAfterOpen(ctx context.Context, name string) error {
	stopped := make(chan *daemon, 1)
	stop := func(d *daemon) {
		d.pause()
		stopped <- d
	}
	_, receipt, err := r.enqueue(ctx, name, "verify")
	if err != nil {
		return err
	}
	if err := r.breakSQL(ctx, sqlFault{Fault: pgproxy.Fault{Statement: openSQL, At: pgproxy.Reply}, rows: true, word: name + "-", do: stop}); err != nil {
		return err
	}
	d := <-stopped
	defer d.resume()
	if name != "overtaken" {
		slow := mailbox.Fault{At: mailbox.Dot, To: name + "-", Delay: 2 * time.Second, Reply: "451 4.3.0 not now", Times: 1}
		if name == "met" {
			slow.Keep, slow.Reply = true, "250 2.0.0 taken"
		}
		return r.act(ctx, slow, 1, func(*daemon) { d.resume() })
	}
	return until(ctx, r.patience(), "another daemon has sent the message", func(ctx context.Context) (sent bool, err error) {
		err = r.pool.QueryRow(ctx, `SELECT status = 'sent' FROM mailcrane.message WHERE id = $1::text::uuid`, receipt.MessageID).Scan(&sent)
		return sent, err
	})
}

// partition begins when the answer to a dot is on its way, which the daemon then
// cannot record.
func partition(ctx context.Context, r *round) error {
	cut := make(chan *daemon, 1)
	err := r.act(ctx, mailbox.Fault{At: mailbox.Dot, Keep: true, Times: 1}, 1, func(d *daemon) {
		d.proxy.Partition(true)
		cut <- d
	})
	if err != nil {
		return err
	}
	d := <-cut
	defer d.proxy.Partition(false)
	if err := r.wait(ctx, r.outage(time.Minute)); err != nil {
		return err
	}
	d.proxy.Partition(false)
	return r.recovered(ctx)
}

// loseAnswers loses those to the statement that records an outcome, and keeps
// one to a fetch back for longer than a lease.
func loseAnswers(ctx context.Context, r *round) error {
	return r.steps(ctx,
		func() error {
			return r.breakSQL(ctx, sqlFault{Fault: pgproxy.Fault{Statement: closeSQL, At: pgproxy.Reply, Cut: true, Times: 3}})
		},
		func() error {
			return r.breakSQL(ctx, sqlFault{Fault: pgproxy.Fault{Statement: fetchSQL, At: pgproxy.Reply}, rows: true, do: func(*daemon) {
				_ = r.wait(ctx, r.outage(20*time.Second)) // the round ends before that only in an emergency
			}})
		},
	)
}

// skewClocks lets the answers to a daemon's heartbeats tell another time. It has
// to send nothing then, and not to start.
func skewClocks(ctx context.Context, r *round) error {
	for i, skew := range []time.Duration{2 * time.Hour, -2 * time.Hour} {
		if err := r.skewClock(ctx, r.lanes[i%len(r.lanes)], skew); err != nil {
			return err
		}
	}
	return nil
}

func (r *round) skewClock(ctx context.Context, d *daemon, skew time.Duration) error {
	if err := d.ready(ctx); err != nil { // the round before may have ended with a restart
		return err
	}
	remove := d.proxy.Inject(pgproxy.Fault{Statement: heartbeatSQL, At: pgproxy.Reply, Rewrite: func(values [][]byte) {
		if len(values) == 2 && len(values[0]) == 8 && len(values[1]) == 8 { // beats, now: microseconds in network order
			now := int64(binary.BigEndian.Uint64(values[1])) + skew.Microseconds() //nolint:gosec // the protocol's two's complement
			values[1] = binary.BigEndian.AppendUint64(nil, uint64(now))            //nolint:gosec // the same
		}
	}})
	r.later(remove)
	if err := until(ctx, r.patience(), d.name+" notices its clock", func(ctx context.Context) (bool, error) { return !d.isReady(ctx), nil }); err != nil {
		return err
	}
	if err := r.wait(ctx, time.Second); err != nil { // what it had handed over is answered by then
		return err
	}
	began := r.sink.count()
	sent, err := r.sentBy(ctx, d)
	if err != nil {
		return err
	}
	if err := until(ctx, r.patience(), "the others go on", func(context.Context) (bool, error) { return r.sink.count() >= began+10, nil }); err != nil {
		return err
	}
	if again, err := r.sentBy(ctx, d); err != nil || again > sent {
		r.breaks("with its clock wrong, %s has sent %d mails (%v)", d.name, again-sent, err)
	}
	if exit, err := d.terminate(ctx); err != nil || exit != 0 {
		r.breaks("SIGTERM: exit code %d, %v", exit, err)
	}
	if err := d.refuses(ctx, 2*r.Lease); err != nil {
		r.breaks("%v", err)
	}
	remove()
	if err := d.ready(ctx); err != nil {
		return err
	}
	return r.recovered(ctx)
}

// sentBy counts the attempts of the daemon's process that were accepted.
func (r *round) sentBy(ctx context.Context, d *daemon) (n int, err error) {
	err = r.pool.QueryRow(ctx, `
		SELECT count(*)
		FROM mailcrane.attempt AS a
		JOIN mailcrane.instance AS n ON n.id = a.instance_id
		WHERE a.outcome = 'accepted' AND n.name LIKE '%:' || $1::text`, fmt.Sprint(d.pid())).Scan(&n)
	return n, err
}

// restartRolling stops and starts the daemons in turn, once while a mail is only
// half on its way. Nothing may be sent twice, nor left to be found out.
func restartRolling(ctx context.Context, r *round) error {
	restart := func(d *daemon) {
		if err := d.ready(ctx); err != nil { // while it still starts, SIGTERM is an error
			r.breaks("%v", err)
			return
		}
		if exit, err := d.terminate(ctx); err != nil || exit != 0 {
			r.breaks("SIGTERM: %s ended with %d, %v", d.name, exit, err)
		}
	}
	for i := range 4 {
		restart(r.lanes[i%2])
		if err := r.wait(ctx, time.Duration(20*r.Scale*float64(time.Second))); err != nil {
			return err
		}
	}
	if _, _, err := r.enqueue(ctx, "big", "big"); err != nil {
		return err
	}
	const pause = 4 * time.Second
	var restarting sync.WaitGroup
	err := r.act(ctx, mailbox.Fault{At: mailbox.Body, To: "big-", Delay: pause, Times: 1}, 1, func(d *daemon) {
		restarting.Go(func() { restart(d) })
	})
	if err == nil { // until the relay has read what it was told, too
		err = r.wait(ctx, pause+time.Second)
	}
	restarting.Wait()
	return err
}

// deployNewKinds leaves jobs in the queue as a newer program would that has died,
// and restarts the daemons, so that each of them gets to look after the queue.
func deployNewKinds(ctx context.Context, r *round) error {
	const n = 20
	_, err := r.pool.Exec(ctx, `
		INSERT INTO mailcrane.river_job (kind, args, max_attempts, queue, state, attempt, attempted_at, attempted_by, scheduled_at)
		SELECT 'digest', '{}', 25, 'default', CASE WHEN i % 2 = 0 THEN 'available' ELSE 'running' END::mailcrane.river_job_state,
		       i % 2, CASE WHEN i % 2 = 1 THEN now() - interval '3 hours' END, CASE WHEN i % 2 = 1 THEN ARRAY['newer'] END, now() - interval '3 hours'
		FROM generate_series(1, $1) AS i`, n)
	if err != nil {
		return err
	}
	for _, d := range r.lanes {
		if exit, err := d.terminate(ctx); err != nil || exit != 0 {
			r.breaks("SIGTERM: %s ended with %d, %v", d.name, exit, err)
		}
		if err := r.wait(ctx, r.Lease); err != nil {
			return err
		}
	}
	left := 0
	err = r.pool.QueryRow(ctx, `
		WITH gone AS (DELETE FROM mailcrane.river_job WHERE kind = 'digest' RETURNING state)
		SELECT count(*) FROM gone WHERE state IN ('available', 'running')`).Scan(&left)
	if err == nil && left != n {
		r.breaks("%d of %d jobs of a kind that the daemons do not know are left", left, n)
	}
	return err
}

// killTheOnlyOne kills it in the middle of its work, with a queue before it and
// several mails on their way.
func killTheOnlyOne(ctx context.Context, r *round) error {
	quicken, _ := r.inject(mailbox.Fault{At: mailbox.Dot, Keep: true, Delay: 2 * time.Second, Reply: "250 2.0.0 taken"}, nil)
	defer quicken()
	kill := func() error {
		sent := r.sink.count()
		err := until(ctx, r.patience(), "the daemon is at work", func(ctx context.Context) (busy bool, err error) {
			err = r.pool.QueryRow(ctx, `SELECT count(*) > 5 FROM mailcrane.message WHERE status = 'queued'`).Scan(&busy)
			return busy && r.sink.count() > sent+5, err
		})
		if err != nil {
			return err
		}
		r.lane().kill()
		return r.lane().ready(ctx)
	}
	for range 3 {
		if err := kill(); err != nil {
			return err
		}
	}
	quicken()
	return r.recovered(ctx)
}

// cutTheAPI cuts the answers to commits of the API, and kills it in the middle.
func cutTheAPI(ctx context.Context, r *round) error {
	acted := &atomic.Int32{}
	web := r.web
	inject := func(f pgproxy.Fault, do func()) error {
		acted.Store(0)
		times := int32(f.Times) //nolint:gosec // a handful
		f.Do = func() {
			acted.Add(1)
			if do != nil {
				do()
			}
		}
		remove := web.proxy.Inject(f)
		defer remove()
		return until(ctx, r.patience(), "the API writes", func(context.Context) (bool, error) { return acted.Load() >= times, nil })
	}
	const invite = "mailcrane.invite("
	return r.steps(ctx,
		func() error {
			return inject(pgproxy.Fault{Statement: invite, At: pgproxy.Reply, Cut: true, Times: 5}, nil)
		},
		func() error { return inject(pgproxy.Fault{Statement: invite, At: pgproxy.Reply, Times: 1}, web.kill) },
		func() error { return inject(pgproxy.Fault{Statement: invite, Times: 1}, web.kill) },
	)
}

// restartAll stops and starts the daemons, which other things may happen to.
func restartAll(ctx context.Context, r *round) error {
	for _, d := range r.lanes {
		if _, err := d.terminate(ctx); err != nil {
			return err
		}
	}
	return nil
}

// twoAtOnce plays two other cases at the same time. Their outages are short: one
// waits for the other's to end.
func twoAtOnce(ctx context.Context, r *round) error {
	r.brief = true
	cases := []func(context.Context, *round) error{
		killAfterTheDot, resetAfterTheDot, relaysDown, killPostgreSQL, partition, restartAll, loseAnswers,
	}
	r.random.Shuffle(len(cases), func(i, k int) { cases[i], cases[k] = cases[k], cases[i] })
	var playing sync.WaitGroup
	failed := make([]error, 2)
	for i, play := range cases[:2] {
		playing.Go(func() { failed[i] = play(ctx, r) })
	}
	playing.Wait()
	return errors.Join(failed...)
}
