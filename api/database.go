package api

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
)

// commit runs a write that nothing cancels once it has begun: whoever goes away
// after asking has still asked, and a commit that is cancelled while it waits for
// a standby is visible here and missing there. An answer that takes longer than
// writeTimeout is not waited for; the write goes on.
//
// In the transaction of a request, the write is a part of that. What PostgreSQL
// undoes because of another write at the same moment is repeated.
func commit[T any](ctx context.Context, pool *pgxpool.Pool, write func(context.Context, outbox.Tx) (T, error)) (T, error) {
	if tx, ok := ctx.Value(txKey{}).(pgx.Tx); ok {
		return insist(func() (value T, err error) {
			err = pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) error {
				value, err = write(ctx, savepoint)
				return err
			})
			return value, err
		})
	}
	return detached(ctx, pool, func(ctx context.Context, conn beginner) (T, error) {
		return insist(func() (T, error) { return write(ctx, conn) })
	})
}

// beginner is a connection.
type beginner interface {
	outbox.Tx
	Begin(context.Context) (pgx.Tx, error)
}

// detached runs work on a connection, as [commit] says, without repeating it.
func detached[T any](ctx context.Context, pool *pgxpool.Pool, work func(context.Context, beginner) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	conn, err := pool.Acquire(patience)
	if err != nil {
		return none, err
	}
	done := make(chan result, 1)
	go func() {
		defer conn.Release()
		value, err := work(context.WithoutCancel(ctx), conn)
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-patience.Done():
		return none, patience.Err()
	}
}

// unavailable says whether err means that the database cannot work now, so that
// the same request may well succeed later.
func unavailable(err error) bool {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return laterStates(refused.Code)
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return pgconn.SafeToRetry(err) || slices.ContainsFunc([]error{
		context.DeadlineExceeded, context.Canceled, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed,
	}, func(target error) bool { return errors.Is(err, target) })
}

// laterStates are the SQLSTATEs of a server that is down, full, busy, in
// recovery or no longer the primary.
func laterStates(code string) bool {
	return pgerrcode.IsConnectionException(code) ||
		pgerrcode.IsInsufficientResources(code) ||
		pgerrcode.IsOperatorIntervention(code) ||
		pgerrcode.IsSystemError(code) ||
		pgerrcode.IsTransactionRollback(code) ||
		code == pgerrcode.ReadOnlySQLTransaction ||
		code == pgerrcode.LockNotAvailable ||
		code == pgerrcode.TooManyConnections
}

// unstorable says whether PostgreSQL refused a value that is fine as JSON.
func unstorable(err error) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pgerrcode.IsDataException(refused.Code) || pgerrcode.IsProgramLimitExceeded(refused.Code))
}

// contended says whether PostgreSQL undid the call because of another one at
// the same moment, and asks for it to be repeated.
func contended(err error) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgerrcode.IsTransactionRollback(refused.Code)
}
