package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Status is where a message stands.
type Status string

// The statuses. Queued and held messages are unfinished, all others finished
// for good.
const (
	StatusQueued     Status = "queued"     // waiting, or in progress
	StatusSent       Status = "sent"       // the next hop accepted responsibility
	StatusFailed     Status = "failed"     // given up, see the reason
	StatusHeld       Status = "held"       // waits for a human
	StatusSuppressed Status = "suppressed" // the address must not be written to
	StatusCancelled  Status = "cancelled"  // withdrawn before it was sent
)

// InvitationRecord is an invitation as it stands in the database, with the
// messages about it, oldest first.
type InvitationRecord struct {
	ID          string          `json:"id"`
	Tenant      string          `json:"tenant"`
	GroupID     string          `json:"group_id"`
	GroupName   string          `json:"group_name"`
	Email       string          `json:"email"`
	InviterID   string          `json:"inviter_id"`
	InviterName string          `json:"inviter_name"`
	Link        string          `json:"link"`
	Locale      string          `json:"locale"`
	Data        map[string]any  `json:"data"`
	Status      string          `json:"status"` // pending, accepted, declined, revoked or expired
	CreatedAt   time.Time       `json:"created_at"`
	ExpiresAt   time.Time       `json:"expires_at"`
	FinishedAt  *time.Time      `json:"finished_at"`
	Resends     int             `json:"resends"`   // how often it was mailed again
	Reminders   int             `json:"reminders"` // how many of the times to remind are over
	RemindAt    *time.Time      `json:"remind_at"` // when to remind next, if it is pending then
	Messages    []MessageRecord `json:"messages"`
}

// MessageRecord is a message as it stands in the database, with its attempts in
// order.
type MessageRecord struct {
	ID              string         `json:"id"`
	Tenant          string         `json:"tenant"`
	InvitationID    string         `json:"invitation_id"` // empty for a message without an invitation
	Channel         string         `json:"channel"`
	Recipient       string         `json:"recipient"`
	Template        string         `json:"template"`
	Locale          string         `json:"locale"`
	Data            map[string]any `json:"data"`
	Status          Status         `json:"status"`
	Reason          string         `json:"reason"` // why it was not sent
	Priority        int            `json:"priority"`
	SendAfter       *time.Time     `json:"send_after"`
	CreatedAt       time.Time      `json:"created_at"`
	ExpiresAt       *time.Time     `json:"expires_at"`
	FinishedAt      *time.Time     `json:"finished_at"`
	HeaderMessageID string         `json:"header_message_id"` // without angle brackets; empty until the first handover
	Attempts        []Attempt      `json:"attempts"`
}

// Attempt is one try to hand a message to the next hop.
type Attempt struct {
	Number     int        `json:"number"`
	Outcome    Outcome    `json:"outcome"` // empty while the attempt is open
	Relay      string     `json:"relay"`   // host:port, empty if none was reached
	Code       int        `json:"code"`    // SMTP reply code, or 0
	Enhanced   string     `json:"enhanced_code"`
	Reply      string     `json:"reply"`    // what the relay said, or why it was not reached
	Instance   string     `json:"instance"` // host:pid of the daemon
	BeganAt    time.Time  `json:"began_at"`
	FinishedAt *time.Time `json:"finished_at"`
}

// The database writes a record as one JSON document whose keys are the columns'
// names, so that a record and all that hangs on it is one row of one query.
const (
	messageDocument = `
		to_jsonb(m) || coalesce((
			SELECT jsonb_build_object(
				'header_message_id', min(a.header_message_id),
				'attempts', jsonb_agg(to_jsonb(a) - 'token_hash' || jsonb_build_object('instance', n.name) ORDER BY a.number))
			FROM mailcrane.attempt AS a
			LEFT JOIN mailcrane.instance AS n ON n.id = a.instance_id
			WHERE a.message_id = m.id
			HAVING count(*) > 0), '{"attempts": []}')`

	invitationDocument = `
		to_jsonb(i) || jsonb_build_object('messages', coalesce((
			SELECT jsonb_agg(` + messageDocument + ` ORDER BY m.id)
			FROM mailcrane.message AS m
			WHERE m.invitation_id = i.id), '[]'))`
)

// GetInvitation reads the invitation with the given id, or gives [ErrNotFound].
func GetInvitation(ctx context.Context, tx Tx, id string) (InvitationRecord, error) {
	return get[InvitationRecord](ctx, tx, "invitation", id, `
		SELECT (`+invitationDocument+`)::text
		FROM mailcrane.invitation AS i
		WHERE i.id = $1::text::uuid`)
}

// GetMessage reads the message with the given id, or gives [ErrNotFound].
func GetMessage(ctx context.Context, tx Tx, id string) (MessageRecord, error) {
	return get[MessageRecord](ctx, tx, "message", id, `
		SELECT (`+messageDocument+`)::text
		FROM mailcrane.message AS m
		WHERE m.id = $1::text::uuid`)
}

func get[T any](ctx context.Context, tx Tx, what, id, statement string) (T, error) {
	var none T
	if !isUUID(id) {
		return none, fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	records, err := query(ctx, tx, scanDocument[T], statement, id)
	if err != nil {
		return none, fmt.Errorf("get %s %s: %w", what, id, err)
	}
	if len(records) == 0 {
		return none, fmt.Errorf("%s %s: %w", what, id, ErrNotFound)
	}
	return records[0], nil
}

// InvitationFilter narrows [ListInvitations]. Empty fields do not.
type InvitationFilter struct {
	Tenant  string
	GroupID string
	Email   string // in any case
	Status  string
	After   string // the id of the last row of the page before
	Limit   int    // default 100, at most 1,000
}

// ListInvitations reads invitations, newest first, a page at a time.
func ListInvitations(ctx context.Context, tx Tx, f InvitationFilter) ([]InvitationRecord, error) {
	records, err := query(ctx, tx, scanDocument[InvitationRecord], `
		SELECT (`+invitationDocument+`)::text
		FROM mailcrane.invitation AS i
		WHERE ($1::text = '' OR i.tenant = $1)
		  AND ($2::text = '' OR i.group_id = $2)
		  AND ($3::text = '' OR lower(i.email) = lower($3))
		  AND ($4::text = '' OR i.status = $4)
		  AND ($5::text = '' OR i.id < nullif($5, '')::uuid)
		ORDER BY i.id DESC
		LIMIT $6`,
		f.Tenant, f.GroupID, f.Email, f.Status, f.After, pageSize(f.Limit))
	if err != nil {
		return nil, fmt.Errorf("list invitations: %w", err)
	}
	return records, nil
}

// MessageFilter narrows [ListMessages]. Empty fields do not.
type MessageFilter struct {
	Tenant       string
	InvitationID string
	Recipient    string // in any case
	Template     string
	Status       Status
	After        string // the id of the last row of the page before
	Limit        int    // default 100, at most 1,000
}

// ListMessages reads messages, newest first, a page at a time.
func ListMessages(ctx context.Context, tx Tx, f MessageFilter) ([]MessageRecord, error) {
	from := "mailcrane.message"
	args := []any{f.Tenant, f.InvitationID, f.Template, string(f.Status), f.After, pageSize(f.Limit)}
	if f.Recipient != "" {
		from = "mailcrane.messages_to($7::text)"
		args = append(args, f.Recipient)
	}
	records, err := query(ctx, tx, scanDocument[MessageRecord], `
		SELECT (`+messageDocument+`)::text
		FROM `+from+` AS m
		WHERE ($1::text = '' OR m.tenant = $1)
		  AND ($2::text = '' OR m.invitation_id = nullif($2, '')::uuid)
		  AND ($3::text = '' OR m.template = $3)
		  AND ($4::text = '' OR m.status = $4)
		  AND ($4::text <> 'queued' OR m.finished_at IS NULL) -- which there is an index for
		  AND ($5::text = '' OR m.id < nullif($5, '')::uuid)
		ORDER BY m.id DESC
		LIMIT $6`, args...)
	if err != nil {
		return nil, fmt.Errorf("list messages: %w", err)
	}
	return records, nil
}

func pageSize(limit int) int {
	if limit <= 0 {
		return 100
	}
	return min(limit, 1000)
}

func scanDocument[T any](row pgx.CollectableRow) (T, error) {
	var record T
	var document string
	if err := row.Scan(&document); err != nil {
		return record, err
	}
	return record, json.Unmarshal([]byte(document), &record)
}
