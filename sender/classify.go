package sender

import (
	"errors"
	"fmt"

	"github.com/mailcrane/mailcrane/outbox"
)

// ErrRefused marks an error in which the relay and we cannot agree to talk at
// all: it refuses our greeting, sender address or credentials, or it does not
// offer the TLS that we require. No message is to blame, so none is rejected;
// an operator has to act.
var ErrRefused = errors.New("the relay refuses us")

// phase is how far the dialogue with the relay had come. The order matters:
// everything below phaseDot is certain not to have been handed over.
type phase int

const (
	phaseConnect  phase = iota // TCP, greeting, EHLO, STARTTLS, AUTH
	phaseReset                 // RSET, on a connection that has been used before
	phaseMail                  // MAIL FROM
	phaseRcpt                  // RCPT TO
	phaseData                  // DATA and the body
	phaseHandover              // the attempt is being recorded; the dot is not sent
	phaseDot                   // the dot has been sent, at least in part
)

// String names the phase as SMTP does.
func (p phase) String() string {
	return [...]string{"connect", "RSET", "MAIL FROM", "RCPT TO", "DATA", "handover", "end of data"}[p]
}

// classify decides what an attempt was, from how far it came and from the
// relay's answer in that phase. Code 0 is no answer, or none that can be read.
//
// The questions are asked in the order of what is certain: was it accepted? did
// the relay speak, and of whom? had the data been handed over? And what is left
// is deferred, because rejecting needs evidence. refused says that the relay
// spoke of us and not of the message.
func classify(p phase, r outbox.Reply) (outcome outbox.Outcome, refused bool) {
	switch class := r.Code / 100; {
	case p == phaseDot && class == 2:
		return outbox.Accepted, false
	case class == 5 && speaksOfUs(p, r):
		return outbox.Deferred, true
	case class == 5 && p == phaseRcpt && r.Code == 552:
		// "Too many recipients" in the words of an old relay, to be taken as 452
		// (RFC 5321 section 4.5.3.1.10).
		return outbox.Deferred, false
	case class == 5:
		return outbox.Rejected, false
	case class == 4:
		return outbox.Deferred, false
	case p == phaseDot:
		return outbox.Unknown, false
	default:
		return outbox.Deferred, false
	}
}

// speaksOfUs tells a 5yz reply that is about this client from one that is about
// the message or its recipient.
func speaksOfUs(p phase, r outbox.Reply) bool {
	switch r.Code {
	case 530, 534, 535, 538: // authentication (RFC 4954 section 6), whenever it comes up
		return true
	}
	switch p {
	case phaseConnect, phaseReset:
		return true
	case phaseMail:
		// All our messages have the same sender. Only the size is the message's own.
		return r.Code != 552 && r.Enhanced != "5.3.4" && r.Enhanced != "5.2.3"
	default:
		return false
	}
}

// failure is what ended a dialogue before the relay accepted the message.
type failure struct {
	phase phase
	reply outbox.Reply // the relay's answer in that phase; Code 0 if there was none
	err   error        // the cause, if it was not an answer
	stale bool         // the connection was found dead at once; if it was an old one, a fresh one may do
}

// sendError gives the failure as the error that Send returns.
func (f *failure) sendError() error {
	outcome, refused := classify(f.phase, f.reply)
	err := f.err
	if err == nil {
		err = replyError(f.reply)
	}
	if refused {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return &outbox.SendError{Outcome: outcome, Err: fmt.Errorf("%s: %w", f.phase, err)}
}

// replyError is a relay's answer that was not the one hoped for.
type replyError outbox.Reply

func (r replyError) Error() string {
	if r.Enhanced == "" {
		return fmt.Sprintf("%d %s", r.Code, r.Text)
	}
	return fmt.Sprintf("%d %s %s", r.Code, r.Enhanced, r.Text)
}
