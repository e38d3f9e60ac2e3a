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

// Who is to blame decides whether another relay is tried and what the breaker
// hears; what throttles halves the connections.
func TestBlame(t *testing.T) {
	t.Parallel()
	const throttles = true
	for _, test := range []struct {
		name      string
		phase     phase
		code      int
		enhanced  string
		text      string
		blame     blame
		throttles bool
	}{
		{"no connection", phaseConnect, 0, "", "", blameRelay, false},
		{"greeting 421", phaseConnect, 421, "", "", blameRelay, throttles},
		{"greeting 450", phaseConnect, 450, "", "", blameRelay, false},
		{"greeting 450 4.7.1", phaseConnect, 450, "4.7.1", "", blameRelay, throttles},
		{"greeting 554", phaseConnect, 554, "", "", blameRefusal, false},
		{"AUTH 535", phaseConnect, 535, "5.7.8", "", blameRefusal, false},
		{"AUTH 454", phaseConnect, 454, "4.7.0", "", blameRelay, throttles},
		{"dropped at MAIL", phaseMail, 0, "", "", blameRelay, false},
		{"MAIL 451", phaseMail, 451, "4.3.0", "", blameRelay, false},
		{"MAIL 450 4.7.1", phaseMail, 450, "4.7.1", "", blameRelay, throttles},
		{"MAIL 550", phaseMail, 550, "5.7.1", "", blameRefusal, false},
		{"MAIL 552 too large", phaseMail, 552, "5.3.4", "", blameMessage, false},
		{"dropped at RCPT", phaseRcpt, 0, "", "", blameRelay, false},
		{"RCPT 421", phaseRcpt, 421, "4.3.2", "", blameRelay, throttles},
		{"RCPT 450 greylisted", phaseRcpt, 450, "4.7.1", "greylisted", blameMessage, false},
		{"RCPT 451 greylisted", phaseRcpt, 451, "4.7.1", "", blameMessage, false},
		{"RCPT 454 denied for now", phaseRcpt, 454, "4.7.1", "Relay access denied", blameRelay, throttles},
		{"RCPT 530", phaseRcpt, 530, "5.7.0", "", blameRefusal, false},
		{"RCPT 550", phaseRcpt, 550, "5.1.1", "no such user", blameMessage, false},
		{"RCPT 550 5.7.1", phaseRcpt, 550, "5.7.1", "", blameDenial, false},
		{"Postfix", phaseRcpt, 554, "", "<ada@example.com>: Relay access denied", blameDenial, false},
		{"sendmail", phaseRcpt, 550, "", "Relaying denied. IP name lookup failed", blameDenial, false},
		{"Exim", phaseRcpt, 550, "", "relay not permitted", blameDenial, false},
		{"Exchange", phaseRcpt, 550, "5.7.54", "SMTP; Unable to relay recipient in non-accepted domain", blameDenial, false},
		{"qmail", phaseRcpt, 553, "", "sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", blameDenial, false},
		{"a user named so", phaseRcpt, 550, "5.1.1", "relay@example.com: access denied", blameMessage, false},
		{"DATA 454", phaseData, 454, "4.7.0", "Throttling failure", blameRelay, throttles},
		{"DATA 451", phaseData, 451, "4.7.1", "", blameMessage, false},
		{"DATA 550 5.7.1", phaseData, 550, "5.7.1", "spam", blameMessage, false},
		{"dropped in the body", phaseData, 0, "", "", blameRelay, false},
		{"hung up during handover", phaseHandover, 0, "", "", blameRelay, false},
		{"dropped at the dot", phaseDot, 0, "", "", blameRelay, false},
		{"dot 421", phaseDot, 421, "", "", blameRelay, throttles},
		{"dot 451 4.7.1", phaseDot, 451, "4.7.1", "", blameMessage, throttles},
		{"dot 451", phaseDot, 451, "4.3.0", "", blameMessage, false},
		{"dot 554", phaseDot, 554, "5.7.1", "spam", blameMessage, false},
	} {
		f := &failure{phase: test.phase, reply: outbox.Reply{Code: test.code, Enhanced: test.enhanced, Text: test.text}}
		if got := f.blame(); got != test.blame || f.throttles() != test.throttles {
			t.Errorf("%s: blame %d, throttles %t; want %d, %t", test.name, got, f.throttles(), test.blame, test.throttles)
		}
		f.ours = true
		if f.blame() != blameSelf || f.elsewhere() || f.blame().verdict() != noVerdict {
			t.Errorf("%s: when it is ours, the blame is %d", test.name, f.blame())
		}
	}
	if f := (&failure{phase: phaseConnect, err: ErrRefused}); f.blame() != blameRefusal || f.blame().verdict() != refusesUs {
		t.Errorf("no STARTTLS: blame %d", f.blame())
	}
}

// Evidence that a relay refuses us is ten denials in a row, at five domains.
func TestDenials(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answers string // a letter for a domain that is denied, a dot for any other answer
		want    bool
	}{
		"ten, at five domains":          {"abcdeabcde", true},
		"nine":                          {"abcdeabcd", false},
		"ten, at four domains":          {"abcdabcdab", false},
		"one domain, however often":     {"aaaaaaaaaaaaaaaaaaaa", false},
		"another answer in between":     {"abcdeabcd.e", false},
		"ten after it":                  {"abcde.abcdeabcde", true},
		"the last ten count":            {"efghijaaaaaaabcd", false},
		"the last ten count, with five": {"aaaaaaaaaaaaaaaaaaaabcde", true},
	} {
		var d denials
		var got bool
		for _, domain := range test.answers {
			got = d.note(string(domain), domain != '.')
		}
		if got != test.want || len(d.domains) > denialsInRow {
			t.Errorf("%s: %t, %d remembered", name, got, len(d.domains))
		}
	}
}
