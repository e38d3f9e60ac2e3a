package outbox

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// watchSnapshots reports when somebody keeps PostgreSQL from cleaning up, and when
// that is over.
func (r *Relay) watchSnapshots(ctx context.Context) {
	alarmed := false
	every(ctx, min(r.SnapshotAlarm/2, 30*time.Second), func() {
		old, err := r.oldSnapshot(ctx)
		switch {
		case errors.Is(err, pgx.ErrNoRows) && alarmed:
			r.Logger.Info("old versions of rows can be removed again")
			alarmed = false
		case err == nil && !alarmed:
			r.Logger.Warn("old versions of rows cannot be removed, and the queue becomes slow: end what is kept open",
				"kind", old.Kind, "name", old.Name, "detail", old.Detail, "since", old.Since)
			alarmed = true
		}
	})
}

// watchEvents reports when somebody has written in a transaction, anywhere on the
// server, and does not end it: events that were committed since cannot be read
// before. See [ListEvents].
func (r *Relay) watchEvents(ctx context.Context) {
	oldest, since, alarmed := "", time.Now(), false
	every(ctx, min(r.SnapshotAlarm/2, 30*time.Second), func() {
		now, writer, err := r.oldestWriter(ctx)
		switch {
		case err != nil: // others say so
		case now != oldest:
			if oldest, since = now, time.Now(); alarmed {
				r.Logger.Info("events can be read again")
				alarmed = false
			}
		case now != "" && !alarmed && time.Since(since) >= r.SnapshotAlarm:
			r.Logger.Warn("events cannot be read, and webhooks are told nothing: end the transaction that has written and is not over",
				"kind", writer.Kind, "name", writer.Name, "detail", writer.Detail, "since", writer.Since)
			alarmed = true
		}
	})
}

// oldestWriter gives the oldest transaction that has written and is not over, by its
// number and with who that is. The number is empty if there is none.
func (r *Relay) oldestWriter(ctx context.Context) (xid string, writer oldSnapshot, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.Lease)
	defer cancel()
	err = r.Pool.QueryRow(ctx, `
		SELECT CASE WHEN pg_snapshot_xmin(s.now) < pg_snapshot_xmax(s.now) THEN pg_snapshot_xmin(s.now)::text ELSE '' END,
		       coalesce(o.kind, ''), coalesce(o.name, ''), coalesce(o.detail, ''), o.since
		FROM pg_current_snapshot() AS s (now)
		LEFT JOIN mailcrane.oldest_writer AS o ON true
		LIMIT 1`).Scan(&xid, &writer.Kind, &writer.Name, &writer.Detail, &writer.Since)
	return xid, writer, err
}

// oldSnapshot is what keeps PostgreSQL from removing old versions of rows.
type oldSnapshot struct {
	Kind, Name, Detail string
	Since              *time.Time // nil: nobody knows
}

// oldSnapshot gives the oldest that is too old, or [pgx.ErrNoRows].
func (r *Relay) oldSnapshot(ctx context.Context) (oldSnapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, r.Lease)
	defer cancel()
	rows, err := r.Pool.Query(ctx, `
		SELECT s.kind, s.name, s.detail, s.since
		FROM mailcrane.old_snapshot AS s
		WHERE coalesce(s.since < clock_timestamp() - $1::interval, true)
		ORDER BY s.since
		LIMIT 1`, r.SnapshotAlarm)
	if err != nil {
		return oldSnapshot{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[oldSnapshot])
}
