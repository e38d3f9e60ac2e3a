//go:build unix

package torture

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// One row per thing that can become of a letter.
func TestLedger_entersEachLetterWhereItBelongs(t *testing.T) {
	t.Parallel()
	whole := func(hashes ...string) (copies []copied) {
		for _, hash := range hashes {
			copies = append(copies, copied{Hash: hash, Whole: true})
		}
		return copies
	}
	sent := stored{Rows: 1, Status: outbox.StatusSent}
	for name, c := range map[string]struct {
		letter letter
		stored stored
		copies []copied
		want   Ledger
	}{
		"sent":                            {letter{fate: committed}, sent, whole("a"), Ledger{Committed: 1, Sent: 1}},
		"sent, says the database only":    {letter{fate: committed}, sent, nil, Ledger{Committed: 1, Lost: 1}},
		"gone from the database":          {letter{fate: committed}, stored{}, nil, Ledger{Committed: 1, Lost: 1}},
		"queued":                          {letter{fate: committed}, stored{Rows: 1, Status: outbox.StatusQueued}, nil, Ledger{Committed: 1, Lost: 1}},
		"held":                            {letter{fate: committed}, stored{Rows: 1, Status: outbox.StatusHeld}, whole("a"), Ledger{Committed: 1, Lost: 1}},
		"failed":                          {letter{fate: committed}, stored{Rows: 1, Status: outbox.StatusFailed}, nil, Ledger{Committed: 1, Lost: 1}},
		"failed, as it should":            {letter{fate: committed, fails: true}, stored{Rows: 1, Status: outbox.StatusFailed}, nil, Ledger{Committed: 1, Failed: 1}},
		"failed, and sent all the same":   {letter{fate: committed, fails: true}, stored{Rows: 1, Status: outbox.StatusFailed}, whole("a"), Ledger{Committed: 1, Lost: 1}},
		"a copy, and an unknown attempt":  {letter{fate: committed}, stored{1, outbox.StatusSent, 1}, whole("a", "a"), Ledger{Committed: 1, Sent: 1, Copies: 1, Unknown: 1}},
		"a copy that nothing explains":    {letter{fate: committed}, sent, whole("a", "a"), Ledger{Committed: 1, Sent: 1, Copies: 1, Unaccounted: 1}},
		"a copy that differs":             {letter{fate: committed}, stored{1, outbox.StatusSent, 1}, whole("a", "b"), Ledger{Committed: 1, Sent: 1, Copies: 1, Unknown: 1, Damaged: 1}},
		"cut short":                       {letter{fate: committed}, sent, []copied{{Hash: "a"}}, Ledger{Committed: 1, Sent: 1, Damaged: 1}},
		"written twice":                   {letter{fate: committed}, stored{Rows: 2, Status: outbox.StatusSent}, whole("a", "a"), Ledger{Committed: 1, Sent: 1, Phantom: 1, Copies: 1, Unaccounted: 1}},
		"rolled back":                     {letter{fate: rolledBack}, stored{}, nil, Ledger{RolledBack: 1}},
		"rolled back, and sent":           {letter{fate: rolledBack}, stored{}, whole("a"), Ledger{RolledBack: 1, Phantom: 1}},
		"rolled back, and there":          {letter{fate: rolledBack}, stored{Rows: 1, Status: outbox.StatusQueued}, nil, Ledger{RolledBack: 1, Phantom: 1}},
		"doubtful, and there":             {letter{}, sent, whole("a"), Ledger{Committed: 1, Sent: 1}},
		"doubtful, and not there":         {letter{}, stored{}, nil, Ledger{RolledBack: 1}},
		"doubtful, not there, and a mail": {letter{}, stored{}, whole("a"), Ledger{RolledBack: 1, Phantom: 1}},
	} {
		var l Ledger
		l.enter(c.letter, c.stored, c.copies)
		if l != c.want {
			t.Errorf("%s: got %+v, want %+v", name, l, c.want)
		}
	}
}

func TestRound_judgesWhatTheCaseAllows(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ledger Ledger
		copies allowance
		want   string
	}{
		"all is well":      {Ledger{Committed: 1, Sent: 1}, none, ""},
		"lost":             {Ledger{Lost: 2}, accounted, "2 lost"},
		"phantom":          {Ledger{Phantom: 1}, accounted, "1 phantom"},
		"damaged":          {Ledger{Damaged: 1}, accounted, "1 damaged"},
		"copies":           {Ledger{Copies: 1, Unknown: 1}, accounted, ""},
		"copies, but none": {Ledger{Copies: 1, Unknown: 1}, none, "1 copies where none is allowed"},
		"unaccounted":      {Ledger{Copies: 1, Unaccounted: 1}, accounted, "1 copies that no unknown attempt explains"},
		"too slow":         {Ledger{Recovery: 16}, none, "recovered after 16.0 s, not within 15.0 s"},
	} {
		r := Round{Within: seconds(15 * time.Second), Ledger: c.ledger}
		r.judge(scenario{copies: c.copies})
		if got := strings.Join(r.Broken, "; "); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		if report := (Report{Rounds: []Round{r}}); len(report.Broken()) != len(r.Broken) {
			t.Errorf("%s: the report says %q", name, report.Broken())
		}
	}
	report := Report{Findings: []outbox.Finding{{Check: "overdue", Severity: outbox.Warning}}}
	if len(report.Broken()) != 1 {
		t.Error("an audit that finds something is no broken promise")
	}
}

func TestRun_saysWhatIsWrongWithItsConfig(t *testing.T) {
	t.Parallel()
	_, err := Run(t.Context(), Config{Cases: []int{5, 15}, Lease: time.Second, Scale: 2, Rate: -1})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"no case 15", "lease", "scale", "rate"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q says nothing about %s", err, want)
		}
	}
}

func TestList_showsEveryCase(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := List(&out); err != nil || strings.Count(out.String(), "\n") != len(scenarios())+1 {
		t.Errorf("%v\n%s", err, out.String())
	}
	numbers := map[int]bool{}
	for _, c := range scenarios() {
		if numbers[c.number] || c.run == nil || c.within == 0 || c.title == "" {
			t.Errorf("case %d is there twice, or not complete", c.number)
		}
		numbers[c.number] = true
	}
}
