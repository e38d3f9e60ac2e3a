package sender

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

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

// blame says whose failure it was, and with that what may be done now: only what
// is about the relay makes it worth to try another one.
type blame int

const (
	blameMessage blame = iota // or its recipient: another relay would say the same
	blameSelf                 // we gave up, were closed, or could not record the attempt
	blameRelay                // it is down, hangs up, or asks for patience
	blameDenial               // it does not relay to this recipient; see denials
	blameRefusal              // it refuses us: ErrRefused
)

// verdict is what the failure says about the relay: one that speaks of the
// message works.
func (b blame) verdict() verdict {
	return [...]verdict{works, noVerdict, fails, works, refusesUs}[b]
}

// blame decides whose failure f is. A relay that dies after the dot is at fault
// like one that dies before, though the message may not go to another one then.
func (f *failure) blame() blame {
	_, refused := classify(f.phase, f.reply)
	class := f.reply.Code / 100
	switch {
	case f.ours:
		return blameSelf
	case refused || f.refused || errors.Is(f.err, ErrRefused):
		return blameRefusal
	case class != 4 && class != 5, f.reply.Code == 421, f.reply.Code == 454:
		return blameRelay
	case class == 4 && f.phase < phaseRcpt: // all our messages have the same sender
		return blameRelay
	case class == 5 && f.phase == phaseRcpt && denies(f.reply):
		return blameDenial
	default:
		return blameMessage
	}
}

// elsewhere reports whether another relay may be tried, as long as handover was
// not called.
func (f *failure) elsewhere() bool {
	blame := f.blame()
	return f.retryAfter > 0 || blame != blameMessage && blame != blameSelf
}

// throttles reports whether the relay asks us to be slower. At RCPT 4.7.1 is
// greylisting, which passes by itself.
func (f *failure) throttles() bool {
	switch {
	case f.reply.Code == 421, f.reply.Code == 454:
		return true
	case f.phase == phaseRcpt || f.phase == phaseData:
		return false
	default:
		return f.reply.Code/100 == 4 && strings.HasPrefix(f.reply.Enhanced, "4.7.")
	}
}

var denial = regexp.MustCompile(`(?i)\brelay(ing)? (access )?(is )?(denied|prohibited|not (permitted|allowed))|\bunable to relay\b|\brcpthosts\b`)

// denies recognises "relay access denied" in an answer to RCPT. RFC 3463 has
// 5.7.1 for it, which is used for much else; so one alone is no evidence that
// the relay refuses us.
func denies(r outbox.Reply) bool { return r.Enhanced == "5.7.1" || denial.MatchString(r.Text) }

// failure is what ended a dialogue before the relay accepted the message.
type failure struct {
	phase   phase
	reply   outbox.Reply // the relay's answer in that phase; Code 0 if there was none
	err     error        // the cause, if it was not an answer
	stale   bool         // the connection was found dead at once; if it was an old one, a fresh one may do
	ours    bool         // the relay has nothing to do with it
	refused bool         // the relay refuses us, by evidence from more than this message
	crowded bool         // the relay wants no further connection beside those there are

	retryAfter time.Duration // nothing was tried; come back then
}

// cause gives the failure as an error, without its outcome.
func (f *failure) cause() error {
	err := f.err
	if err == nil {
		err = replyError(f.reply)
	}
	if _, refused := classify(f.phase, f.reply); refused || f.refused {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return fmt.Errorf("%s: %w", f.phase, err)
}

// sendError gives the failure as the error that Send returns.
func (f *failure) sendError() error {
	outcome, _ := classify(f.phase, f.reply)
	return &outbox.SendError{Outcome: outcome, Err: f.cause()}
}

// replyError is a relay's answer that was not the one hoped for.
type replyError outbox.Reply

func (r replyError) Error() string {
	if r.Enhanced == "" {
		return fmt.Sprintf("%d %s", r.Code, r.Text)
	}
	return fmt.Sprintf("%d %s %s", r.Code, r.Enhanced, r.Text)
}
