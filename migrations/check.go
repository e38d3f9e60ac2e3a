package migrations

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Querier is what [Version] and [Check] ask: a connection, a pool or a
// transaction of pgx.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// VersionError says that the schema in a database is not the one that this
// program needs, and what to do about it.
type VersionError struct {
	Found int // version of the schema in the database, 0 if there is none
}

// Error names the command to run.
func (e *VersionError) Error() string {
	switch {
	case e.Found == 0:
		return "the database has no Mailcrane schema: run `mailcrane migrate up`"
	case e.Found < Latest():
		return fmt.Sprintf("the database has version %d of the Mailcrane schema and this program needs %d: run `mailcrane migrate up`",
			e.Found, Latest())
	default:
		return fmt.Sprintf("the database has version %d of the Mailcrane schema and this program knows only %d: "+
			"install a newer mailcrane, or take the schema back with the newer one's `mailcrane migrate down --steps %d`",
			e.Found, Latest(), e.Found-Latest())
	}
}

// Version reads which version of the schema the database holds, 0 for none.
func Version(ctx context.Context, q Querier) (int, error) {
	var exists bool
	if err := q.QueryRow(ctx, `SELECT to_regclass('mailcrane.migration') IS NOT NULL`).Scan(&exists); err != nil {
		return 0, fmt.Errorf("look for the Mailcrane schema: %w", err)
	}
	if !exists {
		return 0, nil
	}
	var version int
	if err := q.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM mailcrane.migration`).Scan(&version); err != nil {
		return 0, fmt.Errorf("read the version of the Mailcrane schema: %w", err)
	}
	return version, nil
}

// Check returns a [*VersionError] unless the database holds the version of the
// schema that this program needs.
func Check(ctx context.Context, q Querier) error {
	found, err := Version(ctx, q)
	if err != nil {
		return err
	}
	if found != Latest() {
		return &VersionError{Found: found}
	}
	return nil
}
