package sender

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// waiterOf reads a flow: the tenant's letter, and the priority.
func waiterOf(name string) *waiter {
	return &waiter{env: &envelope{flow: flow{tenant: name[:1], priority: int(name[1] - '0')}, to: name}}
}

func TestLine_tenantsTakeTurns(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ come, order string }{
		"one tenant":               {"a2 a2 a2", "a2 a2 a2"},
		"two tenants":              {"a2 a2 a2 b2 b2", "a2 b2 a2 b2 a2"},
		"one comes later":          {"a2 a2 a2 a2 . . b2", "a2 a2 a2 b2 a2"},
		"one comes back":           {"a2 a2 a2 a2 b2 . . b2", "a2 b2 a2 b2 a2 a2"},
		"three":                    {"a2 a2 a2 c2 c2 b2", "a2 c2 b2 a2 c2 a2"},
		"by priority":              {"a3 a2 a1 b3 a3", "a1 a2 a3 b3 a3"},
		"a single one and batches": {"a3 a3 a3 a2", "a2 a3 a3 a3"},
		"after a higher priority":  {"a1 a1 a1 . . . b2 b2 a2", "a1 a1 a1 b2 a2 b2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var l line
			var gone []string
			for next := range strings.FieldsSeq(test.come) {
				if next == "." {
					gone = append(gone, l.first().env.to)
					continue
				}
				l.join(waiterOf(next))
			}
			for len(l) > 0 {
				gone = append(gone, l.first().env.to)
			}
			if got := strings.Join(gone, " "); got != test.order {
				t.Errorf("%s go as %s, want %s", test.come, got, test.order)
			}
		})
	}
}

// Whatever comes and goes: a message whose tenant has none waiting waits for one of each
// other tenant, and each of its own before it makes that one more, and one in all for
// the round that was begun. Those of a tenant keep their order.
func TestLine_nobodyWaitsForACrowd(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2000) {
		chance := rand.New(rand.NewPCG(seed, 0))
		var (
			l       line
			number  = map[*waiter]int{}          // in which they came
			mine    = map[flow]int{}             // how many of a flow wait
			allowed = map[*waiter]int{}          // to go before it, of each other flow
			before  = map[*waiter]map[flow]int{} // how many went
		)
		for n := range 60 {
			if len(l) == 0 || chance.IntN(2) == 0 {
				w := waiterOf([]string{"a2", "a2", "a2", "b2", "c2", "a3", "b3"}[chance.IntN(7)])
				number[w], allowed[w], before[w] = n, mine[w.env.flow]+1+min(1, mine[w.env.flow]), map[flow]int{}
				mine[w.env.flow]++
				l.join(w)
				continue
			}
			gone := l.first()
			f := gone.env.flow
			mine[f]--
			for _, w := range l {
				before[w][f]++
				switch same := w.env.flow.priority == f.priority; {
				case w.env.flow == f && number[w] < number[gone]:
					t.Fatalf("seed %d: one of %v went out of its order", seed, f)
				case w.env.flow.priority < f.priority:
					t.Fatalf("seed %d: one of %v went before one of %v", seed, f, w.env.flow)
				case same && w.env.flow != f && before[w][f] > allowed[w]:
					t.Fatalf("seed %d: %d of %v went before one of %v, at most %d should", seed, before[w][f], f, w.env.flow, allowed[w])
				}
			}
		}
	}
}
