package outbox

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Errors of the calls that change an invitation. Each means that nothing was
// written; as with any error of PostgreSQL, the transaction can then only be rolled
// back, to a savepoint at least.
var (
	// ErrInvalidToken means that a token was never mailed, or that a newer mail has
	// replaced it.
	ErrInvalidToken = errors.New("the token is not valid")

	// ErrAlreadyInvited means that there is another pending invitation of the address
	// to the group.
	ErrAlreadyInvited = errors.New("there is a pending invitation of this address to the group already")
)

// StatusError means that an invitation is not pending any more. Nothing was
// written.
type StatusError struct {
	Status string // accepted, declined, revoked or expired
}

// Error says what the invitation is instead.
func (e *StatusError) Error() string { return "the invitation is " + e.Status }

// Stopped says whether a message was withdrawn in time.
type Stopped string

// The answers of [Revoke] and [CancelMessage].
const (
	StoppedInTime Stopped = "stopped"      // no relay has got it
	AlreadySent   Stopped = "already_sent" // a relay has accepted it
	InFlight      Stopped = "in_flight"    // a relay may have it, and nobody can say yet
)

// Accept uses up the invitation that a mailed token is for, and gives it. On the
// transaction in which the application makes the invited a member, both happen or
// neither. Of two calls at once, one succeeds.
//
// It gives [ErrInvalidToken] or a [*StatusError] where that cannot be.
func Accept(ctx context.Context, tx Tx, token string) (InvitationRecord, error) {
	return finishByToken(ctx, tx, "accept", `SELECT id::text FROM mailcrane.accept($1)`, token)
}

// Decline is [Accept] for somebody who says no.
func Decline(ctx context.Context, tx Tx, token string) (InvitationRecord, error) {
	return finishByToken(ctx, tx, "decline", `SELECT id::text FROM mailcrane.decline($1)`, token)
}

// AcceptInvitation is [Accept] for an application that passed a link of its own. It
// gives [ErrNotFound] or a [*StatusError] where that cannot be.
func AcceptInvitation(ctx context.Context, tx Tx, id string) (InvitationRecord, error) {
	return finishByID(ctx, tx, "accept invitation", `SELECT id::text FROM mailcrane.accept_invitation($1::text::uuid)`, id)
}

// DeclineInvitation is [AcceptInvitation] for somebody who says no.
func DeclineInvitation(ctx context.Context, tx Tx, id string) (InvitationRecord, error) {
	return finishByID(ctx, tx, "decline invitation", `SELECT id::text FROM mailcrane.decline_invitation($1::text::uuid)`, id)
}

func finishByToken(ctx context.Context, tx Tx, what, statement, token string) (InvitationRecord, error) {
	if !tokenShape.MatchString(token) {
		return InvitationRecord{}, fmt.Errorf("%s: %w", what, ErrInvalidToken)
	}
	record, err := finish(ctx, tx, what, statement, token)
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%s: %w", what, ErrInvalidToken)
	}
	return record, err
}

func finishByID(ctx context.Context, tx Tx, what, statement, id string) (InvitationRecord, error) {
	if !isUUID(id) {
		return InvitationRecord{}, fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return finish(ctx, tx, what+" "+id, statement, id)
}

func finish(ctx context.Context, tx Tx, what, statement, by string) (InvitationRecord, error) {
	ids, err := query(ctx, tx, pgx.RowTo[string], statement, by)
	if err != nil {
		return InvitationRecord{}, fmt.Errorf("%s: %w", what, asLifecycleError(err))
	}
	return GetInvitation(ctx, tx, ids[0]) // what a statement changes, it does not see
}

// tokenShape is what tokens look like: see [AcceptLink].
var tokenShape = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// Verify gives the invitation that a mailed token is for, whatever its status, and
// changes nothing. It gives [ErrInvalidToken] for any other token.
func Verify(ctx context.Context, tx Tx, token string) (InvitationRecord, error) {
	if !tokenShape.MatchString(token) {
		return InvitationRecord{}, fmt.Errorf("verify: %w", ErrInvalidToken)
	}
	records, err := query(ctx, tx, scanDocument[InvitationRecord], `
		SELECT (`+invitationDocument+`)::text
		FROM mailcrane.verify($1) AS i`, token)
	if err != nil {
		return InvitationRecord{}, fmt.Errorf("verify: %w", err)
	}
	if len(records) == 0 {
		return InvitationRecord{}, fmt.Errorf("verify: %w", ErrInvalidToken)
	}
	return records[0], nil
}

// Revoke takes a pending invitation back: its links become invalid, and mails about
// it that are not with a relay yet are withdrawn. A second call gives an answer as
// well. It gives [ErrNotFound] or a [*StatusError] where that cannot be.
func Revoke(ctx context.Context, tx Tx, id string) (Stopped, error) {
	return stop(ctx, tx, "revoke invitation", id, `SELECT mailcrane.revoke($1::text::uuid)`)
}

// CancelMessage withdraws a message. One that a relay may have got is not repeated.
// It gives [ErrNotFound] if there is none.
func CancelMessage(ctx context.Context, tx Tx, id string) (Stopped, error) {
	return stop(ctx, tx, "cancel message", id, `SELECT mailcrane.cancel_message($1::text::uuid)`)
}

func stop(ctx context.Context, tx Tx, what, id, statement string) (Stopped, error) {
	if !isUUID(id) {
		return "", fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	answers, err := query(ctx, tx, pgx.RowTo[Stopped], statement, id)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", what, id, asLifecycleError(err))
	}
	return answers[0], nil
}

// Resend mails a pending invitation again, with a new link; the links mailed so far
// become invalid. It gives a [*LimitError] if the last mail is too young or there
// were too many (mailcrane.policy), and [ErrNotFound] or a [*StatusError].
func Resend(ctx context.Context, tx Tx, id string) (Receipt, error) {
	return mailAgain(ctx, tx, "resend invitation", id, `SELECT $1::text, message_id::text, result FROM mailcrane.resend($1::text::uuid)`)
}

// ChangeAddress is [Resend] to another address, without the wait. It gives
// [ErrAlreadyInvited] if that is invited to the group already, and an [*InputError]
// if it is not an address, or the one that the invitation has.
func ChangeAddress(ctx context.Context, tx Tx, id, email string) (Receipt, error) {
	if !utf8.ValidString(email) || strings.ContainsRune(email, 0) {
		return Receipt{}, &InputError{Problems: []Problem{{Field: "email", Problem: "is not text in UTF-8"}}}
	}
	return mailAgain(ctx, tx, "change address of invitation", id,
		`SELECT $1::text, message_id::text, result FROM mailcrane.change_address($1::text::uuid, $2)`, email)
}

func mailAgain(ctx context.Context, tx Tx, what, id, statement string, more ...any) (Receipt, error) {
	if !isUUID(id) {
		return Receipt{}, fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	receipts, err := query(ctx, tx, scanReceipt, statement, append([]any{id}, more...)...)
	if err != nil {
		return Receipt{}, fmt.Errorf("%s %s: %w", what, id, asLifecycleError(err))
	}
	return receipts[0], nil
}

func isUUID(id string) bool {
	var parsed pgtype.UUID
	return parsed.Scan(id) == nil
}

// statusSaid is in the error whatever the driver leaves out of it.
var statusSaid = regexp.MustCompile(`the invitation is ([a-z]+)`)

// asLifecycleError names what the functions of the lifecycle refuse.
func asLifecycleError(err error) error {
	switch sqlState(err) {
	case "P0002":
		return ErrNotFound
	case "55000":
		refused := &StatusError{}
		if said := statusSaid.FindStringSubmatch(err.Error()); said != nil {
			refused.Status = said[1]
		}
		return refused
	case "23505":
		return ErrAlreadyInvited
	}
	return asRefusal(err)
}
