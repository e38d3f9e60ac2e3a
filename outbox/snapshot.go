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
