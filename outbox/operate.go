package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ErrNotHeld means that a message is in a state in which a human's decision is
// not asked for.
var ErrNotHeld = errors.New("the message is not held, or none of its attempts is unknown")

// ErrNotFailed means that a message cannot be retried: it was not given up, a newer
// mail has replaced it, or what it was to say is not kept any more.
var ErrNotFailed = errors.New("the message has not failed, or there is nothing of it to retry")

// Scope says what a hold covers. Empty fields stand for all.
type Scope struct {
	Tenant   string
	Template string
}

// Hold stops sending within the scope. What is beyond the point of no return goes
// on. The reason is for people.
func Hold(ctx context.Context, tx Tx, s Scope, reason string) error {
	_, err := query(ctx, tx, pgx.RowTo[*string], `SELECT mailcrane.hold(nullif($1, ''), nullif($2, ''), nullif($3, ''))::text`,
		s.Tenant, s.Template, reason)
	if err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	return nil
}

// Release takes the hold with exactly this scope away, and queues the messages
// again that no other hold keeps. It gives their number; messages that were not
// looked at during the hold are queued anyway.
func Release(ctx context.Context, tx Tx, s Scope) (requeued int64, err error) {
	counts, err := query(ctx, tx, pgx.RowTo[int64], `SELECT mailcrane.release(nullif($1, ''), nullif($2, ''))`, s.Tenant, s.Template)
	if err != nil {
		return 0, fmt.Errorf("release: %w", err)
	}
	return counts[0], nil
}

// ReleaseMessage sends a held message again. It gives [ErrNotFound] or
// [ErrNotHeld] where that cannot be.
func ReleaseMessage(ctx context.Context, tx Tx, id string) error {
	return decideHeld(ctx, tx, "release", id, `SELECT mailcrane.release_message($1::text::uuid)::text`)
}

// MarkSent records that the last unknown attempt of a held message did get
// through. It gives [ErrNotFound] or [ErrNotHeld] where that cannot be.
func MarkSent(ctx context.Context, tx Tx, id string) error {
	return decideHeld(ctx, tx, "mark as sent", id, `SELECT mailcrane.mark_sent($1::text::uuid)::text`)
}

// RetryMessage queues a message again that has failed, for as long as a new one. It
// gives [ErrNotFound] or [ErrNotFailed] where that cannot be.
func RetryMessage(ctx context.Context, tx Tx, id string) error {
	err := decideHeld(ctx, tx, "retry", id, `SELECT mailcrane.retry_message($1::text::uuid)::text`)
	if errors.Is(err, ErrNotHeld) {
		return fmt.Errorf("retry message %s: %w", id, ErrNotFailed)
	}
	return err
}

func decideHeld(ctx context.Context, tx Tx, what, id, statement string) error {
	if !isUUID(id) {
		return fmt.Errorf("message: %w", ErrNotFound)
	}
	_, err := query(ctx, tx, pgx.RowTo[*string], statement, id)
	switch sqlState(err) {
	case "P0002":
		return fmt.Errorf("message %s: %w", id, ErrNotFound)
	case "55000":
		return fmt.Errorf("%s message %s: %w", what, id, ErrNotHeld)
	}
	if err != nil {
		return fmt.Errorf("%s message %s: %w", what, id, err)
	}
	return nil
}

// Adopt makes this copy of the database the one that sends, for relays with the
// given [RelayConfig.Installation]. It waits for transactions that have written events,
// and needs the right to alter the table mailcrane.event.
func Adopt(ctx context.Context, tx Tx, installation string) error {
	_, err := query(ctx, tx, pgx.RowTo[*string], `SELECT mailcrane.adopt(nullif($1, ''))::text`, installation)
	if err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	return nil
}

// Waiting is how many messages of a template wait to be sent.
type Waiting struct {
	Tenant   string `json:"tenant"`
	Template string `json:"template"`
	Messages int64  `json:"messages"`
	Oldest   string `json:"oldest"` // when the first of them was written
}

// ListWaiting counts what would be sent if nothing were held back.
func ListWaiting(ctx context.Context, tx Tx) ([]Waiting, error) {
	list, err := query(ctx, tx, pgx.RowToStructByPos[Waiting], `
		SELECT m.tenant, m.template, count(*), min(m.created_at)::text
		FROM mailcrane.message AS m
		WHERE m.finished_at IS NULL AND m.status = 'queued'
		GROUP BY m.tenant, m.template
		ORDER BY count(*) DESC`)
	if err != nil {
		return nil, fmt.Errorf("list what waits: %w", err)
	}
	return list, nil
}
