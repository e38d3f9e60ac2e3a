package outbox

import (
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// How long a transaction waits for a row that somebody else has locked: one that
// carries a group must not, and one message alone tries again later.
const (
	groupPatience = 100 * time.Millisecond
	alonePatience = 2 * time.Second
)

// longest is how long the answer to a transaction is waited for.
const longest = 30 * time.Second

// settings begin every transaction of the relay.
//
// The commit waits for the disk, and for a synchronous standby, whatever the
// default of the session is: a row that a crash could take back must not be what
// a mail relies on.
//
// And the statements are planned once for each connection, for a few rows found
// by index. The tables may be empty by then, and hold a million rows before the
// database has looked at them again.
const settings = `
	SELECT set_config('synchronous_commit', 'on', true),
	       set_config('lock_timeout', $1, true),
	       set_config('plan_cache_mode', 'force_generic_plan', true),
	       set_config('enable_seqscan', 'off', true),
	       set_config('enable_hashjoin', 'off', true),
	       set_config('enable_mergejoin', 'off', true),
	       set_config('jit', 'off', true)`

// newTransaction gives a batch that begins with the settings.
func newTransaction(alone bool) *pgx.Batch {
	batch, patience := &pgx.Batch{}, groupPatience
	if alone {
		patience = alonePatience
	}
	batch.Queue(settings, patience.String())
	return batch
}

// alonePossible turns the error of a group into errAlone, if the database has
// certainly taken nothing.
func alonePossible(err error, requests int) error {
	if _, refused := errors.AsType[*pgconn.PgError](err); refused && requests > 1 {
		return errAlone
	}
	return err
}

// lockedByOthers says that a statement waited long enough for somebody else's lock.
func lockedByOthers(err error) bool { return sqlState(err) == "55P03" }

// column gives one parameter of a statement about many rows.
func column[Row, Value any](rows []Row, value func(Row) Value) []Value {
	values := make([]Value, len(rows))
	for i, row := range rows {
		values[i] = value(row)
	}
	return values
}

// uuids are ids as a parameter. As texts they would be tried in binary first, and
// each time end in an error that nobody reads.
func uuids[Row any](rows []Row, id func(Row) string) []pgtype.UUID {
	return column(rows, func(row Row) (u pgtype.UUID) {
		_ = u.Scan(id(row)) // it comes from the database; and nothing is found by NULL
		return u
	})
}

// interval is a duration as a parameter in a column.
func interval(d time.Duration) pgtype.Interval {
	return pgtype.Interval{Microseconds: d.Microseconds(), Valid: true}
}
