package outbox

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// Erased is how many rows of a kind [Erase] has changed.
type Erased struct {
	What string // invitations, messages, suppressions, or a column in which the address was found besides
	Rows int64
}

// Erase makes the database forget an address. Messages that wait for it are
// withdrawn, its pending invitations revoked. The rows stay, with their ids and
// statuses, so that the audit adds up, under an address made at random; data, links
// and idempotency keys go. Where others have written the address, it is replaced.
//
// Its suppression goes too: who must not be written to again would have to be known.
// Backups, replicas that lag, and what the relays have are out of reach; and until
// tables are vacuumed and analyzed, their files and statistics have it too.
//
// It reads all tables. What is not an address gives an [*InputError].
func Erase(ctx context.Context, tx Tx, address string) ([]Erased, error) {
	if !utf8.ValidString(address) || strings.ContainsRune(address, 0) {
		return nil, &InputError{Problems: []Problem{{Field: "address", Problem: "is not text in UTF-8"}}}
	}
	rows, err := query(ctx, tx, pgx.RowToStructByPos[Erased], `SELECT what, erased FROM mailcrane.erase($1)`, address)
	if err != nil {
		return nil, fmt.Errorf("erase: %w", asInputError(err))
	}
	return rows, nil
}
