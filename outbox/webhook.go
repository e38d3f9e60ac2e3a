package outbox

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// WebhookChannel is the channel of messages to webhooks: see [RelayConfig.Senders].
const WebhookChannel = "webhook"

// Webhook is an endpoint elsewhere that is told what happens.
type Webhook struct {
	ID              string     `json:"id"`
	Tenant          string     `json:"tenant"`
	URL             string     `json:"url"`
	Types           []string   `json:"types"`      // such as "invitation.accepted" or "message.*"; empty: everything
	Generation      int        `json:"generation"` // of its secret: see [WebhookSecret]
	RotatedAt       *time.Time `json:"rotated_at"` // nil: never
	CreatedAt       time.Time  `json:"created_at"`
	DisabledAt      *time.Time `json:"disabled_at"` // nil: it is not
	DisabledBecause string     `json:"disabled_because"`
	MissedAt        *time.Time `json:"missed_at"` // when events were deleted that it had not been told of; nil: never
}

// WebhookOverlap is how long the secret before the present one is good.
const WebhookOverlap = 24 * time.Hour

// WebhookSecret is the secret that messages to a webhook are signed with: 32 bytes
// made from the secret of the daemons, and another 32 for each generation. It is
// stored nowhere.
func WebhookSecret(secret []byte, id string, generation int) []byte {
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "mailcrane webhook %s %d", id, generation)
	return mac.Sum(nil)
}

// Secrets are those that a message is signed with now: the present one and, for a
// day after a rotation, the one before.
func (w Webhook) Secrets(secret []byte) [][]byte {
	secrets := [][]byte{WebhookSecret(secret, w.ID, w.Generation)}
	if w.RotatedAt != nil && time.Since(*w.RotatedAt) < WebhookOverlap {
		secrets = append(secrets, WebhookSecret(secret, w.ID, w.Generation-1))
	}
	return secrets
}

// CreateWebhook makes an endpoint of a tenant, the default one if it is empty, that
// is told what happens from now on. Bad input gives an [*InputError].
func CreateWebhook(ctx context.Context, tx Tx, tenant, url string, types ...string) (id string, err error) {
	if text := tenant + url + strings.Join(types, ""); !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return "", &InputError{Problems: []Problem{{Field: "url", Problem: "is not text in UTF-8"}}}
	}
	if types == nil {
		types = []string{}
	}
	ids, err := query(ctx, tx, pgx.RowTo[string],
		`SELECT mailcrane.create_webhook($1::text, $2::text[], coalesce(nullif($3::text, ''), 'default'))::text`, url, types, tenant)
	if err != nil {
		return "", fmt.Errorf("create webhook: %w", asInputError(err))
	}
	return ids[0], nil
}

const webhookDocument = `(to_jsonb(w) - 'last_event' - 'replays')::text`

// GetWebhook reads the webhook with the given id, or gives [ErrNotFound].
func GetWebhook(ctx context.Context, tx Tx, id string) (Webhook, error) {
	return get[Webhook](ctx, tx, "webhook", id, `SELECT `+webhookDocument+` FROM mailcrane.webhook AS w WHERE w.id = $1::text::uuid`)
}

// ListWebhooks reads the webhooks of a tenant, or of all if it is empty, newest
// first.
func ListWebhooks(ctx context.Context, tx Tx, tenant string) ([]Webhook, error) {
	list, err := query(ctx, tx, scanDocument[Webhook],
		`SELECT `+webhookDocument+` FROM mailcrane.webhook AS w WHERE $1::text IN ('', w.tenant) ORDER BY w.id DESC`, tenant)
	if err != nil {
		return nil, fmt.Errorf("list webhooks: %w", err)
	}
	return list, nil
}

// DeleteWebhook removes a webhook and withdraws what waits for it, or gives
// [ErrNotFound].
func DeleteWebhook(ctx context.Context, tx Tx, id string) error {
	return changeWebhook(ctx, tx, "delete", id, `SELECT mailcrane.delete_webhook($1::text::uuid)::text`)
}

// RotateWebhook gives a webhook another secret, or gives [ErrNotFound]. The one
// before is good for [WebhookOverlap] more, and until then there is no third: that
// gives a [*LimitError].
func RotateWebhook(ctx context.Context, tx Tx, id string) error {
	return changeWebhook(ctx, tx, "rotate", id, `SELECT mailcrane.rotate_webhook($1::text::uuid)::text`)
}

// DisableWebhook tells a webhook nothing more until [EnableWebhook], or gives
// [ErrNotFound]. What waits for it is held.
func DisableWebhook(ctx context.Context, tx Tx, id, because string) error {
	return changeWebhook(ctx, tx, "disable", id, `SELECT mailcrane.disable_webhook($1::text::uuid, $2::text)::text`, because)
}

// EnableWebhook tells a webhook again what happens, from where it was disabled, and
// what was held for it, or gives [ErrNotFound].
func EnableWebhook(ctx context.Context, tx Tx, id string) error {
	return changeWebhook(ctx, tx, "enable", id, `SELECT mailcrane.enable_webhook($1::text::uuid)::text`)
}

// ReplayWebhook tells a webhook again what has happened since the event with the ID
// after, or from the first if it is empty. It gives [ErrNotFound], or an
// [*InputError] if that is not the ID of an event, or of one that it has not been told
// of yet.
func ReplayWebhook(ctx context.Context, tx Tx, id, after string) error {
	return changeWebhook(ctx, tx, "replay", id, `SELECT mailcrane.replay_webhook($1::text::uuid, $2::text)::text`, after)
}

func changeWebhook(ctx context.Context, tx Tx, what, id, statement string, more ...any) error {
	if !isUUID(id) {
		return fmt.Errorf("%s webhook: %w", what, ErrNotFound)
	}
	_, err := query(ctx, tx, pgx.RowTo[*string], statement, append([]any{id}, more...)...)
	if err != nil {
		return fmt.Errorf("%s webhook %s: %w", what, id, asLifecycleError(err))
	}
	return nil
}
