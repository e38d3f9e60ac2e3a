package outbox

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// Suppression is an address that must not be written to.
type Suppression struct {
	Address   string    `json:"address"` // in lower case
	Reason    string    `json:"reason"`  // for people; default "not to be written to"
	Source    string    `json:"source"`  // who says so: operator (the default), bounce, complaint, …
	CreatedAt time.Time `json:"created_at,omitzero"`
}

// Suppress keeps addresses of a tenant, the default one if it is empty, from being
// written to: up to 50,000, all or none. It gives the number of those that are new;
// the others stay as they are. Bad input gives an [*InputError] with the first 100
// problems.
func Suppress(ctx context.Context, tx Tx, tenant string, list ...Suppression) (created int64, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	for i, s := range list {
		for field, text := range map[string]string{"address": s.Address, "reason": s.Reason, "source": s.Source} {
			if !utf8.ValidString(text) || strings.ContainsRune(text, 0) { // which JSON would change, or PostgreSQL not take
				return 0, &InputError{Problems: []Problem{{Item: i, Field: field, Problem: "is not text in UTF-8"}}}
			}
		}
	}
	document, err := json.Marshal(list)
	if err != nil {
		return 0, fmt.Errorf("suppress: %w", err)
	}
	counts, err := query(ctx, tx, pgx.RowTo[int64],
		`SELECT mailcrane.suppress_many($1::text::jsonb, coalesce(nullif($2::text, ''), 'default'))`, string(document), tenant)
	if err != nil {
		return 0, fmt.Errorf("suppress: %w", asInputError(err))
	}
	return counts[0], nil
}

// Unsuppress lets an address be written to again, or gives [ErrNotFound]. Messages
// that were suppressed meanwhile stay so. One that was erased is suppressed under its
// [ErasedAddress].
func Unsuppress(ctx context.Context, tx Tx, tenant, address string) error {
	if !utf8.ValidString(address) || strings.ContainsRune(address, 0) {
		return fmt.Errorf("suppression: %w", ErrNotFound)
	}
	found, err := query(ctx, tx, pgx.RowTo[bool],
		`SELECT mailcrane.unsuppress($1::text, coalesce(nullif($2::text, ''), 'default'))`, address, tenant)
	if err != nil {
		return fmt.Errorf("unsuppress: %w", err)
	}
	if !found[0] {
		return fmt.Errorf("suppression: %w", ErrNotFound)
	}
	return nil
}

// SuppressionFilter says which page [ListSuppressions] gives.
type SuppressionFilter struct {
	Tenant string // default "default"
	After  string // the address that ended the page before
	Limit  int    // default 100, at most 1,000
}

// ListSuppressions reads the addresses of a tenant that must not be written to, in
// the order of their bytes, a page at a time.
func ListSuppressions(ctx context.Context, tx Tx, f SuppressionFilter) ([]Suppression, error) {
	list, err := query(ctx, tx, pgx.RowToStructByPos[Suppression], `
		SELECT s.address, s.reason, s.source, s.created_at
		FROM mailcrane.suppression AS s
		WHERE s.tenant = coalesce(nullif($1::text, ''), 'default')
		  AND s.address COLLATE "C" > $2::text
		ORDER BY s.address COLLATE "C"
		LIMIT $3`, f.Tenant, f.After, pageSize(f.Limit))
	if err != nil {
		return nil, fmt.Errorf("list suppressions: %w", err)
	}
	return list, nil
}

// ReadSuppressions reads a list in CSV (RFC 4180), for [Suppress]. The first line
// names the columns: address and, in any order or not at all, reason and source.
// Others are ignored. What it cannot read gives an [*InputError].
func ReadSuppressions(r io.Reader) ([]Suppression, error) {
	records := csv.NewReader(r)
	header, err := records.Read()
	if err != nil {
		return nil, unreadable(err)
	}
	for i := range header {
		header[i] = strings.ToLower(strings.TrimSpace(strings.TrimPrefix(header[i], "\ufeff")))
	}
	if !slices.Contains(header, "address") {
		return nil, &InputError{Problems: []Problem{{Field: "input", Problem: "has no column address in its first line"}}}
	}
	var list []Suppression
	for {
		record, err := records.Read()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, unreadable(err)
		}
		var s Suppression
		for i, text := range record {
			switch header[i] {
			case "address":
				s.Address = text
			case "reason":
				s.Reason = text
			case "source":
				s.Source = text
			}
		}
		list = append(list, s)
	}
}

// unreadable says in which line the CSV ends to be one.
func unreadable(err error) error {
	if wrong, ok := errors.AsType[*csv.ParseError](err); ok {
		return &InputError{Problems: []Problem{{Field: "input", Problem: fmt.Sprintf("is not CSV in line %d: %v", wrong.Line, wrong.Err)}}}
	}
	if errors.Is(err, io.EOF) {
		return &InputError{Problems: []Problem{{Field: "input", Problem: "is empty"}}}
	}
	return fmt.Errorf("read suppressions: %w", err)
}
