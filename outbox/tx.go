package outbox

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Tx is what the functions of this package run their one query on. A [pgx.Tx]
// is one as it is, and so are a connection and a pool of pgx, where the call is
// a transaction of its own; [SQL] makes one of a [*sql.Tx].
type Tx interface {
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
}

// SQL makes a [Tx] of a transaction of database/sql, with any PostgreSQL driver.
func SQL(tx *sql.Tx) Tx { return sqlTx{tx} }

type sqlTx struct{ tx *sql.Tx }

func (t sqlTx) Query(ctx context.Context, query string, args ...any) (pgx.Rows, error) {
	rows, err := t.tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return &sqlRows{rows: rows}, rows.Err()
}

// sqlRows lets the row collectors of pgx read rows of database/sql.
type sqlRows struct {
	rows *sql.Rows
	err  error
}

var errNotPgx = errors.New("outbox: not available on a transaction of database/sql")

func (r *sqlRows) Next() bool                                   { return r.rows.Next() }
func (r *sqlRows) Scan(dest ...any) error                       { return r.rows.Scan(dest...) }
func (r *sqlRows) Err() error                                   { return errors.Join(r.err, r.rows.Err()) }
func (r *sqlRows) Close()                                       { r.err = errors.Join(r.err, r.rows.Close()) }
func (r *sqlRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (r *sqlRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (r *sqlRows) Values() ([]any, error)                       { return nil, errNotPgx }
func (r *sqlRows) RawValues() [][]byte                          { return nil }
func (r *sqlRows) Conn() *pgx.Conn                              { return nil }
func (r *sqlRows) TypeMap() *pgtype.Map                         { return nil }
