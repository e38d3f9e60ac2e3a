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
		writer, err := r.oldestWriter(ctx)
		switch {
		case err != nil: // others say so
		case writer.XID != oldest:
			if oldest, since = writer.XID, time.Now(); alarmed {
				r.Logger.Info("events can be read again")
				alarmed = false
			}
		case writer.XID != "" && !alarmed && time.Since(since) >= r.SnapshotAlarm:
			r.Logger.Warn("events cannot be read, and webhooks are told nothing: end the transaction that has written and is not over",
				"kind", writer.Kind, "name", writer.Name, "detail", writer.Detail, "since", writer.Since)
			alarmed = true
		}
	})
}

// oldSnapshot is what keeps PostgreSQL from removing old versions of rows.
type oldSnapshot struct {
	Kind, Name, Detail string
	Since              *time.Time // nil: nobody knows
}

// oldSnapshot gives the oldest that is too old, or [pgx.ErrNoRows].
func (r *Relay) oldSnapshot(ctx context.Context) (oldSnapshot, error) {
	return askOne(ctx, r.sessions.lengthy, pgx.RowToStructByName[oldSnapshot], `
		SELECT s.kind, s.name, s.detail, s.since
		FROM mailcrane.old_snapshot AS s
		WHERE coalesce(s.since < clock_timestamp() - $1::interval, true)
		ORDER BY s.since
		LIMIT 1`, r.SnapshotAlarm)
}

// oldWriter is a transaction that has written and is not over.
type oldWriter struct {
	XID string // empty: there is none
	oldSnapshot
}

func (r *Relay) oldestWriter(ctx context.Context) (oldWriter, error) {
	return askOne(ctx, r.sessions.lengthy, pgx.RowToStructByName[oldWriter], `
		SELECT CASE WHEN pg_snapshot_xmin(s.now) < pg_snapshot_xmax(s.now) THEN pg_snapshot_xmin(s.now)::text ELSE '' END AS xid,
		       coalesce(o.kind, '') AS kind, coalesce(o.name, '') AS name, coalesce(o.detail, '') AS detail, o.since
		FROM pg_current_snapshot() AS s (now)
		LEFT JOIN mailcrane.oldest_writer AS o ON true
		LIMIT 1`)
}
