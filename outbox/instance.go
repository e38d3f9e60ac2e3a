package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// instance is this daemon in the eyes of the others: live while its heartbeat,
// by the database's clock, is younger than its lease.
type instance struct {
	id        string
	name      string
	version   string
	pool      *pgxpool.Pool
	heartbeat time.Duration
	lease     time.Duration
	logger    *slog.Logger
	renewed   atomic.Pointer[time.Time] // when the last successful heartbeat was begun
}

// register writes the first heartbeat of a new instance. Its id is also the name
// of its River client, so that a running job tells who runs it.
func register(ctx context.Context, c RelayConfig) (*instance, error) {
	i := &instance{
		name: c.Name, version: c.Version, pool: c.Pool, heartbeat: c.Heartbeat, lease: c.Lease, logger: c.Logger,
	}
	if err := c.Pool.QueryRow(ctx, `SELECT mailcrane.uuid_v7()::text`).Scan(&i.id); err != nil {
		return nil, fmt.Errorf("register instance: %w", err)
	}
	if err := i.beat(ctx); err != nil {
		return nil, fmt.Errorf("register instance: %w", err)
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

// beat proves that this daemon lives. The time counts from before the statement,
// so that a slow answer makes the lease shorter, never longer.
func (i *instance) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, i.lease)
	defer cancel()
	began := time.Now()
	_, err := i.pool.Exec(ctx, `
		INSERT INTO mailcrane.instance (id, name, version, lease)
		VALUES ($1, $2, $3, $4)
		ON CONFLICT (id) DO UPDATE
		SET heartbeat_at = clock_timestamp(), stopped_at = NULL`,
		i.id, i.name, i.version, i.lease)
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	i.renewed.Store(&began)
	return nil
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
	renewed := *i.renewed.Load()
	limit := i.lease * 4 / 5
	if elapsed := max(time.Since(renewed), time.Now().Round(0).Sub(renewed.Round(0))); elapsed > limit {
		return fmt.Errorf("the last heartbeat is %s old, too old to send anything", elapsed.Round(time.Millisecond))
	}
	return nil
}

// deregister says good-bye, so that nobody waits for the lease to run out.
func (i *instance) deregister(ctx context.Context) error {
	_, err := i.pool.Exec(ctx, `UPDATE mailcrane.instance SET stopped_at = clock_timestamp() WHERE id = $1`, i.id)
	if err != nil {
		return fmt.Errorf("deregister instance: %w", err)
	}
	return nil
}

// reap gives the running jobs of dead daemons back to the queue, until ctx ends.
// Every daemon does it: there is no leader to wait for.
func (r *Relay) reap(ctx context.Context) {
	every(ctx, min(time.Second, r.Lease/2), func() {
		tag, err := r.Pool.Exec(ctx, `
			UPDATE mailcrane.river_job
			SET state = 'available', scheduled_at = now()
			WHERE id IN (
				SELECT j.id
				FROM mailcrane.river_job AS j
				WHERE j.state = 'running'
				  AND j.kind = 'deliver'
				  AND NOT EXISTS (
					SELECT FROM mailcrane.instance AS n
					WHERE n.id::text = j.attempted_by[array_upper(j.attempted_by, 1)]
					  AND mailcrane.instance_is_live(n))
				LIMIT 1000
				FOR UPDATE SKIP LOCKED)`)
		switch {
		case err != nil && ctx.Err() == nil:
			r.Logger.Error("reaper failed", "error", err)
		case err == nil && tag.RowsAffected() > 0:
			r.Logger.Warn("jobs of dead daemons given back to the queue", "jobs", tag.RowsAffected())
		}
	})
}

// every calls do at the given interval until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do()
		}
	}
}
