package sender

import (
	"errors"
	"io"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
)

// One row per line of the truth table.
func TestClassify(t *testing.T) {
	t.Parallel()
	const refused = true
	for _, test := range []struct {
		name     string
		phase    phase
		code     int
		enhanced string
		outcome  outbox.Outcome
		refused  bool
	}{
		// Was it accepted?
		{"250 to the dot", phaseDot, 250, "2.0.0", outbox.Accepted, false},
		{"any 2yz to the dot", phaseDot, 251, "", outbox.Accepted, false},
		{"2yz to anything else is no acceptance", phaseData, 250, "", outbox.Deferred, false},
		{"2yz during handover is no acceptance", phaseHandover, 250, "", outbox.Deferred, false},

		// Did the relay speak, and of whom?
		{"greeting 554", phaseConnect, 554, "", outbox.Deferred, refused},
		{"greeting 421", phaseConnect, 421, "", outbox.Deferred, false},
		{"AUTH 535", phaseConnect, 535, "5.7.8", outbox.Deferred, refused},
		{"AUTH 454", phaseConnect, 454, "4.7.0", outbox.Deferred, false},
		{"MAIL 451", phaseMail, 451, "4.3.0", outbox.Deferred, false},
		{"MAIL 421", phaseMail, 421, "", outbox.Deferred, false},
		{"MAIL 530", phaseMail, 530, "5.7.0", outbox.Deferred, refused},
		{"MAIL 534", phaseMail, 534, "", outbox.Deferred, refused},
		{"MAIL 535", phaseMail, 535, "", outbox.Deferred, refused},
		{"MAIL 538", phaseMail, 538, "", outbox.Deferred, refused},
		{"MAIL 550 5.7.1", phaseMail, 550, "5.7.1", outbox.Deferred, refused},
		{"MAIL 553 sender not known", phaseMail, 553, "5.1.8", outbox.Deferred, refused},
		{"MAIL 550 without reason", phaseMail, 550, "", outbox.Deferred, refused},
		{"MAIL 552 too large", phaseMail, 552, "5.3.4", outbox.Rejected, false},
		{"MAIL 554 too large", phaseMail, 554, "5.3.4", outbox.Rejected, false},
		{"RCPT 550", phaseRcpt, 550, "5.1.1", outbox.Rejected, false},
		{"RCPT 550 5.7.1", phaseRcpt, 550, "5.7.1", outbox.Rejected, false},
		{"RCPT 530", phaseRcpt, 530, "5.7.0", outbox.Deferred, refused},
		{"RCPT 552 is 452", phaseRcpt, 552, "5.5.3", outbox.Deferred, false},
		{"RCPT 452", phaseRcpt, 452, "4.5.3", outbox.Deferred, false},
		{"RCPT 450", phaseRcpt, 450, "4.2.0", outbox.Deferred, false},
		{"DATA 554", phaseData, 554, "", outbox.Rejected, false},
		{"DATA 454", phaseData, 454, "", outbox.Deferred, false},
		{"552 in the body", phaseData, 552, "5.3.4", outbox.Rejected, false},
		{"421 during handover", phaseHandover, 421, "", outbox.Deferred, false},
		{"dot 554", phaseDot, 554, "5.7.1", outbox.Rejected, false},
		{"dot 552", phaseDot, 552, "", outbox.Rejected, false},
		{"dot 530", phaseDot, 530, "", outbox.Deferred, refused},
		{"dot 451", phaseDot, 451, "4.7.1", outbox.Deferred, false},
		{"dot 421", phaseDot, 421, "", outbox.Deferred, false},

		// Had the data been handed over?
		{"silence after the dot", phaseDot, 0, "", outbox.Unknown, false},
		{"354 after the dot", phaseDot, 354, "", outbox.Unknown, false},
		{"100 after the dot", phaseDot, 100, "", outbox.Unknown, false},

		// Else deferred.
		{"silence at connect", phaseConnect, 0, "", outbox.Deferred, false},
		{"silence at RSET", phaseReset, 0, "", outbox.Deferred, false},
		{"silence at MAIL", phaseMail, 0, "", outbox.Deferred, false},
		{"silence at RCPT", phaseRcpt, 0, "", outbox.Deferred, false},
		{"silence at DATA", phaseData, 0, "", outbox.Deferred, false},
		{"handover failed", phaseHandover, 0, "", outbox.Deferred, false},
		{"a challenge to MAIL", phaseMail, 334, "", outbox.Deferred, false},
	} {
		outcome, refused := classify(test.phase, outbox.Reply{Code: test.code, Enhanced: test.enhanced})
		if outcome != test.outcome || refused != test.refused {
			t.Errorf("%s: %s, refused %t; want %s, %t", test.name, outcome, refused, test.outcome, test.refused)
		}
	}
}

// Over all codes: nothing is rejected or unknown without its evidence, and only
// an answer to the dot accepts.
func TestClassify_needsEvidence(t *testing.T) {
	t.Parallel()
	for p := phaseConnect; p <= phaseDot; p++ {
		for code := range 600 {
			outcome, refused := classify(p, outbox.Reply{Code: code})
			if outcome == outbox.Rejected && code/100 != 5 {
				t.Errorf("%s %d is rejected", p, code)
			}
			if outcome == outbox.Unknown && p != phaseDot || outcome == outbox.Accepted && p != phaseDot {
				t.Errorf("%s %d is %s before the dot", p, code, outcome)
			}
			if p == phaseDot && code/100 < 4 && outcome == outbox.Deferred {
				t.Errorf("%s %d would be repeated without a record", p, code)
			}
			if refused && outcome != outbox.Deferred {
				t.Errorf("%s %d blames a message for what is ours", p, code)
			}
		}
	}
}

func TestFailure_keepsItsCause(t *testing.T) {
	t.Parallel()
	cause := &outbox.SendError{Outcome: outbox.Accepted, Err: io.ErrUnexpectedEOF}
	err := (&failure{phase: phaseHandover, err: cause}).sendError()
	if !errors.Is(err, io.ErrUnexpectedEOF) || outbox.OutcomeOf(err) != outbox.Deferred {
		t.Errorf("%v is %s", err, outbox.OutcomeOf(err))
	}
	err = (&failure{phase: phaseMail, reply: outbox.Reply{Code: 530, Enhanced: "5.7.0", Text: "log in"}}).sendError()
	if !errors.Is(err, ErrRefused) || err.Error() != "deferred: MAIL FROM: the relay refuses us: 530 5.7.0 log in" {
		t.Errorf("%v", err)
	}
}
