package outbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// Bounce is news about a mail after a relay has accepted it: it could not be
// delivered, or who got it says that it is spam. Kind is required, and either the
// address or one of the ids. Without an id it is about the newest mail to its address.
type Bounce struct {
	Kind            BounceKind `json:"kind"`
	Address         string     `json:"address,omitempty"`           // default: the recipient of the message
	MessageID       string     `json:"message_id,omitempty"`        // of the message
	HeaderMessageID string     `json:"header_message_id,omitempty"` // the Message-ID that it was sent under
	Diagnostic      string     `json:"diagnostic,omitempty"`        // what was said; the first 500 characters are kept, without tokens
	At              time.Time  `json:"at,omitzero"`                 // default: now
	Source          string     `json:"source,omitempty"`            // who says so; default "operator"
	SourceID        string     `json:"source_id,omitempty"`         // how the source calls it: what is reported twice counts once
}

// BounceKind says what a bounce means for the address.
type BounceKind string

// The kinds of bounces. The first and the last suppress the address.
const (
	HardBounce BounceKind = "hard"      // the address does not take mail
	SoftBounce BounceKind = "soft"      // not now
	Complaint  BounceKind = "complaint" // it is spam, says who got it
)

// Reported says what became of a bounce.
type Reported struct {
	Result    string // recorded, existing (it was reported before) or ignored (about a message that is not here, or no mail)
	MessageID string // what it is about, if that is known
}

// ReportBounces records bounces and complaints, up to 1,000, all or none. Hard ones
// and complaints keep their addresses from being written to. An empty tenant is that
// of each message; where none is named, those of all that have mailed the address. Bad
// input gives an [*InputError].
func ReportBounces(ctx context.Context, tx Tx, tenant string, bounces ...Bounce) ([]Reported, error) {
	for i, b := range bounces {
		for field, text := range map[string]string{
			"kind": string(b.Kind), "address": b.Address, "message_id": b.MessageID, "header_message_id": b.HeaderMessageID,
			"diagnostic": b.Diagnostic, "source": b.Source, "source_id": b.SourceID,
		} {
			if !utf8.ValidString(text) || strings.ContainsRune(text, 0) { // which JSON would change, or PostgreSQL not take
				return nil, &InputError{Problems: []Problem{{Item: i, Field: field, Problem: "is not text in UTF-8"}}}
			}
		}
	}
	ordered, places := inOneOrder(bounces)
	document, err := json.Marshal(ordered)
	if err != nil {
		return nil, fmt.Errorf("report bounces: %w", err)
	}
	reported, err := query(ctx, tx, pgx.RowToStructByPos[Reported],
		`SELECT result, coalesce(message_id::text, '') FROM mailcrane.report_bounces($1::text::jsonb, nullif($2::text, ''))`, string(document), tenant)
	if err != nil {
		return nil, fmt.Errorf("report bounces: %w", asGiven(asInputError(err), places))
	}
	results := make([]Reported, len(reported))
	for i, r := range reported {
		results[places[i]] = r
	}
	return results, nil
}

// inOneOrder sorts bounces by their addresses, and says at which place each was
// given: of two reports at once about the same addresses, each would wait for the
// other if they did not begin at the same end. News about one address stays in order.
func inOneOrder(bounces []Bounce) (ordered []Bounce, places []int) {
	places = make([]int, len(bounces))
	for i := range places {
		places[i] = i
	}
	key := func(place int) string { return strings.ToLower(strings.TrimSpace(bounces[place].Address)) }
	slices.SortStableFunc(places, func(a, b int) int { return strings.Compare(key(a), key(b)) })
	ordered = make([]Bounce, len(bounces))
	for i, place := range places {
		ordered[i] = bounces[place]
	}
	return ordered, places
}

// asGiven gives the items of an [*InputError] the places that the caller knows. Some
// problems are about none of them.
func asGiven(err error, places []int) error {
	input, ok := errors.AsType[*InputError](err)
	if !ok || len(input.Problems) == 0 {
		return err
	}
	for i, p := range input.Problems {
		if p.Item < len(places) && p.Field != "bounces" && p.Field != "tenant" {
			input.Problems[i].Item = places[p.Item]
		}
	}
	slices.SortStableFunc(input.Problems, func(a, b Problem) int { return cmp.Compare(a.Item, b.Item) })
	return err
}
