package outbox

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
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

// ErasedAddress is what [Erase] puts in the place of an address: a hash that nobody
// can make who does not know the secret (HMAC-SHA-256, RFC 2104). It is empty without
// a secret.
func ErasedAddress(secret []byte, address string) string {
	if len(secret) == 0 {
		return ""
	}
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "mailcrane erased address %s", strings.ToLower(strings.TrimSpace(address)))
	return fmt.Sprintf("erased-%x@erased.invalid", mac.Sum(nil)[:16])
}

// Erase makes the database forget an address. Messages that wait for it are
// withdrawn, its pending invitations revoked. The rows stay, with their ids and
// statuses, so that the audit adds up, under the [ErasedAddress]; data, links and
// idempotency keys go. Where others have written the address, it is replaced.
//
// Its suppressions stay under the erased address, and relays with the same secret
// obey them. Without a secret, what takes the place of the address is made at random,
// and its suppressions go too.
//
// Backups, replicas that lag, and what the relays have are out of reach; and until
// tables are vacuumed and analyzed, their files and statistics have it too.
//
// It reads all tables. What is not an address gives an [*InputError].
func Erase(ctx context.Context, tx Tx, address string, secret []byte) ([]Erased, error) {
	if !utf8.ValidString(address) || strings.ContainsRune(address, 0) {
		return nil, &InputError{Problems: []Problem{{Field: "address", Problem: "is not text in UTF-8"}}}
	}
	rows, err := query(ctx, tx, pgx.RowToStructByPos[Erased],
		`SELECT what, erased FROM mailcrane.erase($1::text, nullif($2::text, ''))`, address, ErasedAddress(secret, address))
	if err != nil {
		return nil, fmt.Errorf("erase: %w", asInputError(err))
	}
	return rows, nil
}

// findErased finds out which messages are to addresses that were erased and must not
// be written to.
func (r *Relay) findErased(ctx context.Context, list []loaded) error {
	var tenants, addresses []string
	for _, l := range list {
		if l.HasErased && l.SuppressedFor == "" && l.Channel == "email" && len(r.Secret) > 0 {
			tenants, addresses = append(tenants, l.Tenant), append(addresses, ErasedAddress(r.Secret, l.Recipient))
		}
	}
	if len(addresses) == 0 {
		return nil
	}
	type suppressed struct{ Tenant, Address, Reason string }
	found, err := query(ctx, r.Pool, pgx.RowToStructByPos[suppressed], `
		SELECT s.tenant, s.address, s.reason
		FROM unnest($1::text[], $2::text[]) AS m (tenant, address)
		JOIN mailcrane.suppression AS s ON s.tenant = m.tenant AND s.address = m.address`, tenants, addresses)
	for _, s := range found {
		for i, l := range list {
			if l.HasErased && l.Tenant == s.Tenant && ErasedAddress(r.Secret, l.Recipient) == s.Address {
				list[i].SuppressedFor = s.Reason
			}
		}
	}
	return err
}
