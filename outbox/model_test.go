package outbox_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// node is a world that was reached, and how.
type node struct {
	world  world
	parent int32
	who    int8 // as emit has it
	step   string
}

// explored is what became of a version of the protocol: how many worlds there
// are, the most copies in any, and the first thing that must not be, if any.
type explored struct {
	worlds, copies int
	violation      string
	trace          []string // the shortest schedule that leads to it
}

// explore visits every world that any schedule can reach, nearest first, and
// stops at the first that must not be.
func explore(r rules) explored {
	start := world{}
	for d := range r.workers {
		start.live[d] = true
	}
	seen := map[world]struct{}{start: {}}
	nodes := []node{{world: start, parent: -1}}
	result := explored{}
	for at := 0; at < len(nodes) && result.violation == ""; at++ {
		r.steps(nodes[at].world, func(step string, who int, next world) {
			if _, ok := seen[next]; ok || result.violation != "" {
				return
			}
			seen[next] = struct{}{}
			nodes = append(nodes, node{next, int32(at), int8(who), step})
			result.copies = max(result.copies, next.accepted())
			if result.violation = r.violation(next); result.violation != "" {
				result.trace = trace(nodes)
			}
		})
	}
	result.worlds = len(nodes)
	return result
}

// trace is the schedule that leads to the last node.
func trace(nodes []node) []string {
	var steps []string
	for n := nodes[len(nodes)-1]; n.parent >= 0; n = nodes[n.parent] {
		who := fmt.Sprint("worker ", n.who)
		if n.who >= mostWorkers {
			who = fmt.Sprint("daemon ", n.who-mostWorkers)
		}
		steps = append(steps, who+": "+n.step)
	}
	slices.Reverse(steps)
	return steps
}

func (e explored) String() string {
	if e.violation == "" {
		return fmt.Sprintf("nothing wrong in %d worlds", e.worlds)
	}
	return fmt.Sprintf("%s:\n\t%s", e.violation, strings.Join(e.trace, "\n\t"))
}

// What must not be.
const (
	lost           = "completed, but nobody has accepted it"
	unrecorded     = "a second copy, and no record of either"
	overPolicy     = "more copies than the policy allows"
	overUnknown    = "more copies than one and one for each unknown outcome"
	attemptTwice   = "one attempt was sent twice"
	withoutAttempt = "a copy without a row in the ledger"
)

// violation says what must not be in a world, worst first, or nothing.
func (r rules) violation(w world) string {
	n := w.accepted()
	copies := w.copies[:n]
	switch {
	case w.job.state == completed && n == 0:
		return lost
	case r.noLedger && n > 1:
		return unrecorded
	case !r.noLedger && n > 1+r.repeats():
		return overPolicy
	case !r.noLedger && n > 1+w.perhapsSent():
		return overUnknown
	case n > 1 && len(slices.Compact(slices.Sorted(slices.Values(copies)))) < n:
		return attemptTwice
	case !r.noLedger && slices.ContainsFunc(copies, func(number uint8) bool {
		return !w.anyAttempt(func(a attemptRow) bool { return a.number == number })
	}):
		return withoutAttempt
	}
	return ""
}

func (w world) accepted() int {
	n := slices.Index(w.copies[:], 0)
	if n < 0 {
		return len(w.copies)
	}
	return n
}

// perhapsSent counts the attempts that are on record as unknown, once or now;
// an open one is as good as that.
func (w world) perhapsSent() int {
	n := 0
	for _, a := range w.ledger {
		if a.number > 0 && (a.wasUnknown || isOpen(a)) {
			n++
		}
	}
	return n
}

func (r rules) repeats() int {
	if r.hold {
		return 0
	}
	return r.maxUnknown
}

// Whatever the schedule: no message is lost, and no copy is made that the ledger
// does not show and the policy does not allow. The number of worlds pins the
// model down: a change of a rule that changes nothing else changes that.
func TestModel_R1toR5_noScheduleLosesOrDoublesUnseen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name           string
		rules          rules
		worlds, copies int
	}{
		{"repeat twice", rules{workers: 2, maxUnknown: 2}, 22_338, 3},
		{"repeat once", rules{workers: 2, maxUnknown: 1}, 14_878, 2},
		{"repeat never", rules{workers: 2}, 4_680, 1},
		{"hold", rules{workers: 2, hold: true}, 3_956, 1},
		{"three daemons, repeat twice", rules{workers: 3, maxUnknown: 2}, 269_987, 3},
		{"three daemons, hold", rules{workers: 3, hold: true}, 39_179, 1},
		{"real world, repeat never", rules{workers: 2, real: true}, 265_168, 1},
		{"real world, two workers of one daemon, repeat never", rules{workers: 2, real: true, siblings: true}, 129_528, 1},
		{"real world, two workers of one daemon, repeat once", rules{workers: 2, maxUnknown: 1, real: true, siblings: true}, 686_176, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := explore(c.rules)
			if got.violation != "" {
				t.Fatal(got)
			}
			if got.worlds != c.worlds || got.copies != c.copies {
				t.Errorf("%d worlds with at most %d copies, want %d with %d", got.worlds, got.copies, c.worlds, c.copies)
			}
		})
	}
}

// A model that cannot fail proves nothing: without the rules that carry the
// proof it finds the schedule that breaks the promise. And it shows which rules
// are hygiene: the others keep the promise without them.
func TestModel_withoutARuleItFindsTheScheduleThatBreaksThePromise(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		rules rules
		want  string
	}{
		{"R3 without fence, hold", rules{hold: true, noFence: true}, ""},
		{"R3 without fence and unique index, hold", rules{hold: true, noFence: true, noUniqueIndex: true}, overPolicy},
		{"R5 by state alone, repeat", rules{maxUnknown: 2, completeByState: true}, ""},
		{"R5 by state alone, hold", rules{hold: true, completeByState: true}, ""},
		{"R1 not checked again, repeat", rules{maxUnknown: 2, noRecheck: true}, overUnknown},
		{"R5 by daemon, two daemons", rules{real: true, closeByDaemon: true}, ""},
		{"R5 by daemon, two workers of one, repeat never", rules{real: true, siblings: true, closeByDaemon: true}, overPolicy},
		{"R5 by daemon, two workers of one, repeat twice", rules{maxUnknown: 2, real: true, siblings: true, closeByDaemon: true}, overUnknown},
		{"no ledger, as plain River", rules{maxUnknown: 2, noLedger: true, completeByState: true}, unrecorded},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.rules.workers = 2
			got := explore(c.rules)
			if got.violation != c.want {
				t.Errorf("want %q, got %v", c.want, got)
			}
		})
	}
}
