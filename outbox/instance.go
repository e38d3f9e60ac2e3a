package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// maxSkew is how far our clock and the database's may be apart.
const maxSkew = 2 * time.Second

// instance is this daemon in the eyes of the others: live while its heartbeat,
// by the database's clock, is younger than its lease.
type instance struct {
	id           string
	name         string
	version      string
	installation string
	pool         *pgxpool.Pool
	heartbeat    time.Duration
	lease        time.Duration
	logger       *slog.Logger
	last         atomic.Pointer[beat] // the last one that succeeded
	steadySince  atomic.Pointer[time.Time]
}

// beat is what a heartbeat has told us.
type beat struct {
	begun time.Time     // before the statement, so that a slow answer makes the lease shorter, never longer
	count int64         // heartbeats so far, by the database's reckoning
	skew  time.Duration // by which the database's clock is ahead of ours
	guard string        // why this copy of the database must not be sent from, or empty
	hold  string        // why nothing at all is sent, or empty
}

// register writes the first heartbeat of a new instance. Its id is also the name
// of its River client, so that a running job tells who runs it.
func register(ctx context.Context, c RelayConfig) (*instance, error) {
	i := &instance{
		name: c.Name, version: c.Version, installation: c.Installation, pool: c.Pool,
		heartbeat: c.Heartbeat, lease: c.Lease, logger: c.Logger,
	}
	var fsync string
	if err := c.Pool.QueryRow(ctx, `SELECT mailcrane.uuid_v7()::text, current_setting('fsync')`).Scan(&i.id, &fsync); err != nil {
		return nil, fmt.Errorf("register instance: %w", err)
	}
	if fsync != "on" && !c.AllowUnsafe {
		return nil, errors.New("the database runs with fsync=off: after a crash it would have forgotten what was sent; set fsync=on")
	}
	if err := i.beat(ctx); err != nil {
		return nil, fmt.Errorf("register instance: %w", err)
	}
	if err := i.clockError(); err != nil {
		return nil, errors.Join(err, i.deregister(ctx))
	}
	if err := i.heldBack(); err != nil {
		i.logger.Warn("nothing is sent", "reason", err.Error())
	}
	_, err := c.Pool.Exec(ctx, `
		DELETE FROM mailcrane.instance AS n
		WHERE n.heartbeat_at < clock_timestamp() - interval '30 days'
		  AND NOT EXISTS (SELECT FROM mailcrane.attempt AS a WHERE a.instance_id = n.id AND a.outcome IS NULL)`)
	if err != nil {
		return nil, fmt.Errorf("remove old instances: %w", err)
	}
	return i, nil
}

// wentBack is why everything is held once committed data were found to be lost.
const wentBack = `the database went back in time: it was restored from a backup, or a standby was promoted that lacked the last transactions`

// beat proves that this daemon lives, and learns whether it may go on. A
// heartbeat that was committed and is gone means that other things are gone too,
// perhaps the record of what was sent: then everything is held for a human.
func (i *instance) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, i.lease)
	defer cancel()
	b := beat{begun: time.Now()}
	known := int64(0)
	if last := i.last.Load(); last != nil {
		known = last.count
	}
	var now time.Time
	const continued = `EXISTS (SELECT FROM mailcrane.instance AS n WHERE n.id = $1 AND n.beats > $2)`
	batch := &pgx.Batch{}
	batch.Queue(`SELECT set_config('synchronous_commit', 'on', true)`)
	batch.Queue(`
		INSERT INTO mailcrane.instance AS n (id, name, version, lease)
		VALUES ($1, $2, $3, $4)
		ON CONFLICT (id) DO UPDATE
		SET heartbeat_at = clock_timestamp(), stopped_at = NULL, beats = n.beats + 1
		RETURNING n.beats, clock_timestamp()`,
		i.id, i.name, i.version, i.lease).QueryRow(func(row pgx.Row) error { return row.Scan(&b.count, &now) })
	batch.Queue(`SELECT mailcrane.hold(reason => $3::text) WHERE $2::bigint > 0 AND NOT `+continued, i.id, known, wentBack)
	batch.Queue(`
		SELECT coalesce(mailcrane.guard($3, $2::bigint > 0 AND `+continued+`), ''),
		       coalesce((SELECT h.reason FROM mailcrane.hold AS h WHERE h.tenant = '*' AND h.template = '*'), '')`,
		i.id, known, optional(i.installation)).QueryRow(func(row pgx.Row) error { return row.Scan(&b.guard, &b.hold) })
	if err := i.pool.SendBatch(ctx, batch).Close(); err != nil {
		i.steadySince.Store(nil)
		return fmt.Errorf("heartbeat: %w", err)
	}
	b.skew = skew(b.begun, time.Now(), now)
	if previous := i.last.Load(); previous == nil || b.begun.Sub(previous.begun) > i.lease || i.steadySince.Load() == nil {
		i.steadySince.Store(&b.begun)
	}
	i.last.Store(&b)
	return nil
}

// skew is by how much the time now, read by the database between begun and ended,
// cannot be explained.
func skew(begun, ended, now time.Time) time.Duration {
	switch {
	case now.Before(begun):
		return now.Sub(begun.Round(0))
	case now.After(ended):
		return now.Sub(ended.Round(0))
	default:
		return 0
	}
}

// keepAlive beats until ctx ends.
func (i *instance) keepAlive(ctx context.Context) {
	every(ctx, i.heartbeat, func() {
		if err := i.beat(ctx); err != nil && ctx.Err() == nil {
			i.logger.Error("heartbeat failed", "error", err)
		}
	})
}

// trusted says whether the lease is still good for the moment it takes to send
// the final dot (R4). It asks the monotonic clock, which stands still while a
// virtual machine is suspended, and the wall clock, which may be set: either
// one alone can be fooled.
func (i *instance) trusted() error {
	begun := i.last.Load().begun
	limit := i.lease * 4 / 5
	if elapsed := max(time.Since(begun), time.Now().Round(0).Sub(begun.Round(0))); elapsed > limit {
		return fmt.Errorf("the last heartbeat is %s old, too old to send anything", elapsed.Round(time.Millisecond))
	}
	return i.clockError()
}

func (i *instance) clockError() error {
	if skew := i.last.Load().skew; skew.Abs() > maxSkew {
		return fmt.Errorf("the clock of the database is %s ahead of ours, and at most %s either way will do: set both by NTP", skew.Round(time.Millisecond), maxSkew)
	}
	return nil
}

// heldBack says why nothing at all is sent, if that is so.
func (i *instance) heldBack() error {
	last := i.last.Load()
	switch {
	case last.guard != "":
		return fmt.Errorf("on hold: %s; `mailcrane adopt` shows what would be sent, and releases it", last.guard)
	case last.hold != "":
		return fmt.Errorf("on hold: %s; `mailcrane release` releases it", last.hold)
	default:
		return nil
	}
}

// copied says whether this is a copy of the database that is not to be touched.
func (i *instance) copied() bool { return i.last.Load().guard != "" }

// steady says whether our heartbeats have come through for a whole lease. Before
// that nobody may be taken for dead: after an outage of the database all
// heartbeats are old, and those who live need a moment to say so.
func (i *instance) steady() bool {
	since := i.steadySince.Load()
	return since != nil && time.Since(*since) > i.lease && i.trusted() == nil
}

// deregister says good-bye, so that nobody waits for the lease to run out.
func (i *instance) deregister(ctx context.Context) error {
	_, err := i.pool.Exec(ctx, `UPDATE mailcrane.instance SET stopped_at = clock_timestamp() WHERE id = $1`, i.id)
	if err != nil {
		return fmt.Errorf("deregister instance: %w", err)
	}
	return nil
}
