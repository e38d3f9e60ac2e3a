//go:build unix

package torture

import (
	"fmt"
	"strings"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// Ledger is the account of one round.
type Ledger struct {
	Committed  int `json:"committed"`
	RolledBack int `json:"rolled_back"`
	Sent       int `json:"sent"`
	Failed     int `json:"failed"`  // as it should be: refused for good, or impossible to render
	Held       int `json:"held"`    // left to a human, who decided
	Unknown    int `json:"unknown"` // attempts whose outcome nobody knew for a while
	Copies     int `json:"copies"`  // beyond the first of each message

	Lost        int `json:"lost"`        // committed, and neither sent nor rightly failed
	Phantom     int `json:"phantom"`     // sent or queued, though it was never committed, or once more than it was
	Unaccounted int `json:"unaccounted"` // copies without an unknown attempt that explains them
	Damaged     int `json:"damaged"`     // mails cut short, or copies that differ

	Recovery Seconds `json:"recovery_seconds"` // the longest, from the end of a fault until all was sent that had been written before
}

// Seconds is a duration for JSON, to a tenth of a second.
type Seconds float64

func seconds(d time.Duration) Seconds { return Seconds(d.Round(time.Second / 10).Seconds()) }

func (s Seconds) String() string { return fmt.Sprintf("%.1f s", float64(s)) }

// Round is one case as it was played.
type Round struct {
	Case    int     `json:"case"`
	Title   string  `json:"title"`
	Allowed string  `json:"allowed_copies"`
	Within  Seconds `json:"allowed_recovery_seconds"`
	Skipped string  `json:"skipped,omitempty"` // why it was not played
	Ledger
	Took   Seconds  `json:"took_seconds"`
	Broken []string `json:"broken"` // promises
}

// String is the round in a line.
func (r Round) String() string {
	if r.Skipped != "" {
		return fmt.Sprintf("case %2d  %s: skipped, %s", r.Case, r.Title, r.Skipped)
	}
	verdict := "ok"
	if len(r.Broken) > 0 {
		verdict = "BROKEN: " + strings.Join(r.Broken, "; ")
	}
	return fmt.Sprintf("case %2d  %s: %d committed, %d rolled back, %d sent, lost %d, phantom %d, copies %d, unknown %d, recovered in %s, took %s: %s",
		r.Case, r.Title, r.Committed, r.RolledBack, r.Sent, r.Lost, r.Phantom, r.Copies, r.Unknown, r.Recovery, r.Took, verdict)
}

// judge notes the promises that the ledger breaks.
func (r *Round) judge(c scenario) {
	for _, p := range []struct {
		broken bool
		text   string
	}{
		{r.Lost > 0, fmt.Sprintf("%d lost", r.Lost)},
		{r.Phantom > 0, fmt.Sprintf("%d phantom", r.Phantom)},
		{r.Damaged > 0, fmt.Sprintf("%d damaged", r.Damaged)},
		{r.Unaccounted > 0, fmt.Sprintf("%d copies that no unknown attempt explains", r.Unaccounted)},
		{c.copies == none && r.Copies > 0, fmt.Sprintf("%d copies where none is allowed", r.Copies)},
		{r.Recovery > r.Within, fmt.Sprintf("recovered after %s, not within %s", r.Recovery, r.Within)},
	} {
		if p.broken {
			r.Broken = append(r.Broken, p.text)
		}
	}
}

// Report is all that a run has found.
type Report struct {
	Seed       uint64           `json:"seed"`
	Lease      string           `json:"lease"`
	Scale      float64          `json:"scale"`
	PostgreSQL string           `json:"postgresql"`
	Rounds     []Round          `json:"rounds"`
	Findings   []outbox.Finding `json:"findings"`       // of the audit at the end
	Left       string           `json:"left,omitempty"` // folder with logs and the journal of the mails, after a failure
}

// Total is the sum of all rounds, and the longest recovery.
func (r Report) Total() Ledger {
	var t Ledger
	for _, round := range r.Rounds {
		l := round.Ledger
		t.Committed += l.Committed
		t.RolledBack += l.RolledBack
		t.Sent += l.Sent
		t.Failed += l.Failed
		t.Held += l.Held
		t.Unknown += l.Unknown
		t.Copies += l.Copies
		t.Lost += l.Lost
		t.Phantom += l.Phantom
		t.Unaccounted += l.Unaccounted
		t.Damaged += l.Damaged
		t.Recovery = max(t.Recovery, l.Recovery)
	}
	return t
}

// Broken lists the promises that were not kept.
func (r Report) Broken() []string {
	broken := []string{} // JSON shows that as a list too
	for _, round := range r.Rounds {
		for _, text := range round.Broken {
			broken = append(broken, fmt.Sprintf("case %d: %s", round.Case, text))
		}
	}
	for _, f := range r.Findings {
		broken = append(broken, fmt.Sprintf("audit: %s %s: %s", f.Severity, f.Check, f.Detail))
	}
	return broken
}
