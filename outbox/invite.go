package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// Invitation is a person to be asked to join a group. GroupID and Email are
// required, everything else has a sensible zero value.
type Invitation struct {
	Tenant         string         // default "default"
	GroupID        string         // the application's id of the group
	GroupName      string         // what the mail calls the group
	Email          string         // the address to write to
	InviterID      string         // the application's id of the inviter
	InviterName    string         // what the mail calls the inviter
	Link           string         // where to accept; default: the daemon makes a link with a token
	Locale         string         // language tag (BCP 47); default "en"
	Data           map[string]any // more values for the template, under "data"
	SendAfter      time.Time      // do not send before; default: at once
	ExpiresIn      time.Duration  // how long it can be accepted, from SendAfter or now; default 7 days
	Priority       int            // 1 (first) to 4 (last); default 2
	IdempotencyKey string         // a second call with the same key gives the first one's result; of other things it is refused

	// RemindAfter says when to remind who has not answered, from SendAfter or now: up to
	// ten times, an hour after the one before at least, and before it expires.
	RemindAfter []time.Duration
}

// Draft is a message before it is enqueued. Recipient and Template are
// required.
type Draft struct {
	Tenant         string // default "default"
	Recipient      string
	Template       string
	Channel        string         // default "email"
	Locale         string         // language tag (BCP 47); default "en"
	Data           map[string]any // values for the template, under "data"
	SendAfter      time.Time      // do not send before; default: at once
	ExpiresIn      time.Duration  // do not send later than this after SendAfter or now; default: give up after the relay's limit
	Priority       int            // 1 (first) to 4 (last); default 2
	IdempotencyKey string         // a second call with the same key gives the first one's result; of other things it is refused
}

// Result says what a call of [Invite] or [Enqueue] did.
type Result string

// The results.
const (
	Created    Result = "created"    // written, and queued for delivery
	Existing   Result = "existing"   // the same key, or one pending for the address: nothing written
	Suppressed Result = "suppressed" // recorded, but the address is on the suppression list
)

// Receipt names what was written, or found.
type Receipt struct {
	InvitationID string // empty for a message without an invitation
	MessageID    string
	Result       Result
}

// Invite records inv and its delivery job on tx. Nothing is sent unless tx
// commits.
//
// Bad input gives an [*InputError], and a tenant or inviter who has invited enough
// people today (mailcrane.quota) a [*LimitError]. Nothing is written then; as with
// any error of PostgreSQL, the transaction can only be rolled back, to a savepoint
// at least.
func Invite(ctx context.Context, tx Tx, inv Invitation) (Receipt, error) {
	receipts, err := inviteOne(ctx, tx, inv)
	if err != nil {
		return Receipt{}, err
	}
	return receipts[0], nil
}

// inviteOne takes the way that costs least: mailcrane.invite needs no JSON. What
// its parameters cannot hold, JSON can.
func inviteOne(ctx context.Context, tx Tx, inv Invitation) ([]Receipt, error) {
	for _, text := range []string{
		inv.Tenant, inv.GroupID, inv.GroupName, inv.Email, inv.InviterID, inv.InviterName, inv.Link, inv.Locale, inv.IdempotencyKey,
	} {
		if !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0 {
			return InviteMany(ctx, tx, []Invitation{inv})
		}
	}
	if inv.Priority < 0 || inv.Priority > 4 || inv.SendAfter.Year() > 9999 || len(inv.RemindAfter) > 0 {
		return InviteMany(ctx, tx, []Invitation{inv})
	}
	data, err := json.Marshal(inv.Data) // nil becomes null, which the function takes for {}
	if err != nil {
		return nil, fmt.Errorf("invite: encode data: %w", err)
	}
	receipts, err := query(ctx, tx, scanReceipt, `
		SELECT invitation_id::text, message_id::text, result
		FROM mailcrane.invite(
			group_id => $1::text, email => $2::text, group_name => $3::text, inviter_id => $4::text, inviter_name => $5::text,
			link => $6::text, locale => $7::text, data => $8::text::jsonb, send_after => $9::timestamptz,
			expires_in => nullif($10::text, '')::interval, priority => nullif($11::integer, 0),
			idempotency_key => $12::text, tenant => coalesce(nullif($13::text, ''), 'default'))`,
		inv.GroupID, inv.Email, inv.GroupName, inv.InviterID, inv.InviterName, inv.Link, inv.Locale, string(data),
		optionalTime(inv.SendAfter), optionalInterval(inv.ExpiresIn), inv.Priority, inv.IdempotencyKey, inv.Tenant)
	if err != nil {
		return nil, fmt.Errorf("invite: %w", asRefusal(err))
	}
	return receipts, nil
}

// InviteMany records up to 1,000 invitations of one tenant in one round trip,
// all or none. The receipts are in the order of the invitations.
func InviteMany(ctx context.Context, tx Tx, invs []Invitation) ([]Receipt, error) {
	if len(invs) == 0 {
		return nil, nil
	}
	items := make([]item, len(invs))
	for i, inv := range invs {
		if inv.Tenant != invs[0].Tenant {
			return nil, &InputError{Problems: []Problem{{Item: i, Field: "tenant", Problem: "differs from that of the first item"}}}
		}
		items[i] = newItem(inv)
	}
	document, err := json.Marshal(items)
	if err != nil {
		return nil, fmt.Errorf("invite: encode data: %w", err)
	}
	receipts, err := query(ctx, tx, scanReceipt, `
		SELECT invitation_id::text, message_id::text, result
		FROM mailcrane.invite_many($1::text::jsonb, coalesce(nullif($2::text, ''), 'default'))`,
		string(document), invs[0].Tenant)
	if err != nil {
		return nil, fmt.Errorf("invite: %w", asRefusal(err))
	}
	return receipts, nil
}

// item is an [Invitation] as mailcrane.invite_many reads it.
type item struct {
	GroupID        string         `json:"group_id"`
	GroupName      string         `json:"group_name,omitempty"`
	Email          string         `json:"email"`
	InviterID      string         `json:"inviter_id,omitempty"`
	InviterName    string         `json:"inviter_name,omitempty"`
	Link           string         `json:"link,omitempty"`
	Locale         string         `json:"locale,omitempty"`
	Data           map[string]any `json:"data,omitempty"`
	SendAfter      *time.Time     `json:"send_after,omitempty"`
	ExpiresIn      string         `json:"expires_in,omitempty"`
	Priority       int            `json:"priority,omitempty"`
	IdempotencyKey string         `json:"idempotency_key,omitempty"`
	RemindAfter    []string       `json:"remind_after,omitempty"`
}

func newItem(inv Invitation) item {
	return item{
		GroupID:        inv.GroupID,
		GroupName:      inv.GroupName,
		Email:          inv.Email,
		InviterID:      inv.InviterID,
		InviterName:    inv.InviterName,
		Link:           inv.Link,
		Locale:         inv.Locale,
		Data:           inv.Data,
		SendAfter:      optionalTime(inv.SendAfter),
		ExpiresIn:      optionalInterval(inv.ExpiresIn),
		Priority:       inv.Priority,
		IdempotencyKey: inv.IdempotencyKey,
		RemindAfter:    column(inv.RemindAfter, optionalInterval),
	}
}

// Enqueue records d and its delivery job on tx. Nothing is sent unless tx
// commits. Bad input gives an [*InputError], and a tenant that has sent enough
// messages today (mailcrane.quota) a [*LimitError], as with [Invite].
func Enqueue(ctx context.Context, tx Tx, d Draft) (Receipt, error) {
	data, err := json.Marshal(d.Data) // nil becomes null, which the function takes for {}
	if err != nil {
		return Receipt{}, fmt.Errorf("enqueue: encode data: %w", err)
	}
	receipts, err := query(ctx, tx, scanReceipt, `
		SELECT '', message_id::text, result
		FROM mailcrane.enqueue(
			recipient => $1::text, template => $2::text, data => $3::text::jsonb,
			channel => nullif($4::text, ''), locale => nullif($5::text, ''),
			send_after => $6::timestamptz, expires_in => nullif($7::text, '')::interval,
			priority => nullif($8::integer, 0), idempotency_key => $9::text, tenant => nullif($10::text, ''))`,
		d.Recipient, d.Template, string(data), d.Channel, d.Locale,
		optionalTime(d.SendAfter), optionalInterval(d.ExpiresIn), d.Priority, d.IdempotencyKey, d.Tenant)
	if err != nil {
		return Receipt{}, fmt.Errorf("enqueue: %w", asRefusal(err))
	}
	return receipts[0], nil
}

func scanReceipt(row pgx.CollectableRow) (Receipt, error) {
	var r Receipt
	err := row.Scan(&r.InvitationID, &r.MessageID, &r.Result)
	return r, err
}

// query runs one statement on tx and collects its rows.
func query[T any](ctx context.Context, tx Tx, scan pgx.RowToFunc[T], statement string, args ...any) ([]T, error) {
	rows, err := tx.Query(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// optionalInterval writes a duration as every PostgreSQL reads an interval: its
// fields are 32 bits wide, so no single one could hold all of it. Negative ones
// are passed on, for the database to refuse.
func optionalInterval(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf("%d hours %f seconds", d/time.Hour, (d % time.Hour).Seconds())
}
