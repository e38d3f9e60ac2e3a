package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Event is something that happened to an invitation or a message.
type Event struct {
	ID           string    // says how far one has read; for [EventFilter.After]
	Type         string    // such as "invitation.accepted" or "message.sent": see mailcrane.event
	Tenant       string    // whose it is
	InvitationID string    // empty for a message without an invitation
	MessageID    string    // empty for an event of an invitation
	GroupID      string    // of the invitation
	Detail       string    // why, if there is more to say; never an address
	CreatedAt    time.Time // about when its transaction was committed
}

// EventFilter says which events [ListEvents] gives.
type EventFilter struct {
	Tenant string // default: all
	After  string // the ID of the last event that one has; default: from the first
	Limit  int    // default 100, at most 1,000
}

// ListEvents reads events, oldest first. Whoever goes on with the ID of the last
// one misses none and gets none twice, whatever is committed meanwhile. An event
// appears once no older transaction that writes is running on the server any more.
//
// An After that is not the ID of an event gives an [*InputError]; so does one whose
// followers are deleted already, and one that this database has not had, as it was
// restored since. Those that it has had stay good once it is adopted: see [Adopt].
func ListEvents(ctx context.Context, tx Tx, f EventFilter) ([]Event, error) {
	events, err := query(ctx, tx, scanEvent, `
		SELECT id, type, tenant, coalesce(invitation_id::text, ''), coalesce(message_id::text, ''),
		       coalesce(group_id, ''), coalesce(detail, ''), created_at
		FROM mailcrane.events(nullif($1::text, ''), $2::integer, nullif($3::text, ''))`,
		f.After, pageSize(f.Limit), f.Tenant)
	if err != nil {
		return nil, fmt.Errorf("list events: %w", asInputError(err))
	}
	return events, nil
}

func scanEvent(row pgx.CollectableRow) (Event, error) {
	var e Event
	err := row.Scan(&e.ID, &e.Type, &e.Tenant, &e.InvitationID, &e.MessageID, &e.GroupID, &e.Detail, &e.CreatedAt)
	return e, err
}
