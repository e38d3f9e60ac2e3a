package outbox

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// PreviewLink says which link is asked for.
type PreviewLink struct {
	Tenant       string
	InvitationID string // empty for a message that has no link
	Generation   int    // of the link: see [AcceptLink]
	Passed       string // by the application, or empty
}

// PreviewMessage gives a message as a [Sender] would get it now, or [ErrNotFound].
// link makes the link of an invitation whose application passed none, and replaces
// the one that it passed: a link is as good as a key, and what is only looked at
// need not have one that works. The application's values under "data" are as it gave
// them.
func PreviewMessage(ctx context.Context, tx Tx, id string, link func(PreviewLink) string) (*Message, error) {
	if !isUUID(id) {
		return nil, fmt.Errorf("message: %w", ErrNotFound)
	}
	found, err := query(ctx, tx, pgx.RowToStructByName[loaded], loadMessages, []string{id})
	if err != nil {
		return nil, fmt.Errorf("preview message %s: %w", id, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("message %s: %w", id, ErrNotFound)
	}
	l := found[0]
	m, err := l.message(link(PreviewLink{l.Tenant, l.InvitationID, l.Generation, l.Link}))
	if err != nil {
		return nil, fmt.Errorf("preview message %s: %w", id, err)
	}
	return m, nil
}
