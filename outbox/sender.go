package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Sender hands one message to the next hop of its channel.
//
// It calls handover exactly once, at the last moment at which nothing has been
// handed over, with the name of the next hop, and goes no further if handover
// fails. Until then it gives up when ctx ends; after it, ctx no longer counts
// and the Sender waits for the answer within its own deadline.
//
// A nil error means that the next hop has accepted responsibility. Any other
// error is [Deferred] before the handover and [Unknown] after it, unless it is or
// wraps a [*SendError] that says otherwise, or an [*Unavailable]: then nothing was
// tried.
// The [Reply] is what the next hop said last, in success as in failure.
//
// Policy is not its business: retries, recording and suppression stay in the
// [Relay].
type Sender interface {
	Send(ctx context.Context, m *Message, handover Handover) (Reply, error)
}

// Handover records, durably, that an attempt through relay is about to pass the
// point of no return. If it fails nothing may be handed over.
type Handover func(ctx context.Context, relay string) error

// Outcome is what is known about one attempt once it is over.
type Outcome string

// The outcomes. Accepted, Deferred and Rejected are certain; Unknown means that
// the data had been handed over and no answer came back (RFC 1047).
const (
	Accepted Outcome = "accepted" // the next hop took responsibility
	Deferred Outcome = "deferred" // not handed over; a later attempt may succeed
	Rejected Outcome = "rejected" // not handed over, and a later attempt would not differ
	Unknown  Outcome = "unknown"  // handed over, or not: nobody can say
)

// Reply is the last word of the next hop. Its zero value means that the next
// hop said nothing.
type Reply struct {
	Relay    string // host:port of the next hop, empty if none was reached
	Code     int    // SMTP reply code (RFC 5321 section 4.2), or 0
	Enhanced string // enhanced status code (RFC 3463) such as "5.1.1", or empty
	Text     string // the text after the codes, lines joined by a blank
}

// SendError is an error whose sender knows more than "try again later".
type SendError struct {
	Outcome Outcome
	Err     error
}

// Error gives the outcome and the cause.
func (e *SendError) Error() string { return fmt.Sprintf("%s: %v", e.Outcome, e.Err) }

// Unwrap gives the cause to errors.Is and errors.As.
func (e *SendError) Unwrap() error { return e.Err }

// Unavailable is the error of a Sender that did not try: it has no next hop at
// the moment, or may not use it so soon again. No attempt is recorded, and the
// message comes back after RetryAfter.
type Unavailable struct {
	RetryAfter time.Duration
	Err        error
}

// Error says why nothing was tried, and for how long.
func (e *Unavailable) Error() string {
	return fmt.Sprintf("not tried for %s: %v", e.RetryAfter.Round(time.Millisecond), e.Err)
}

// Unwrap gives the cause to errors.Is and errors.As.
func (e *Unavailable) Unwrap() error { return e.Err }

// OutcomeOf classifies what Send returned: nil is Accepted, a [*SendError]
// speaks for itself, and what nobody classified is Deferred, because rejecting
// needs evidence.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return Accepted
	}
	if se, ok := errors.AsType[*SendError](err); ok {
		return se.Outcome
	}
	return Deferred
}

// Message is one notification to one recipient, as the relay gives it to a
// [Sender]. It is the same on every attempt, except for Attempt and Priority.
type Message struct {
	ID       string // UUID of the row in mailcrane.message
	Tenant   string
	Channel  string // "email"
	Template string // name of the template, such as "invitation"
	Locale   string // language tag (BCP 47), such as "de-AT"

	// Recipient is the one address of the envelope. Its domain may hold
	// non-ASCII letters, which the sender converts (IDNA2008).
	Recipient string

	// HeaderMessageID is the value of the Message-ID header field without the angle
	// brackets (RFC 5322 section 3.6.4). Receivers recognise copies by it.
	HeaderMessageID string

	// Date is the value of the Date header field: when the message was due.
	Date time.Time

	// Data is what the template shows: for an invitation the fields group_id,
	// group_name, email, inviter_id, inviter_name, link, expires_at (RFC 3339) and the
	// application's own values under "data"; for any other message the
	// application's values under "data". Names are those of the SQL columns.
	Data map[string]any

	Attempt int // number of this attempt, from 1

	// Priority is from 1 to 4, as the queue has it, and what is lower goes first. The
	// messages of a batch have 3. A Sender that cannot send all at once keeps to
	// that, and lets tenants take turns.
	Priority int
}
