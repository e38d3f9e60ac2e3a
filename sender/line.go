package sender

import (
	"cmp"
	"slices"
)

// flow is what takes turns where not all can go at once: the messages of one
// tenant that have the same priority.
type flow struct {
	tenant   string
	priority int // lower goes first
}

// line are those who wait, in the order in which they go: by priority, and among
// those of one priority the tenants take turns. In each round everybody sends one
// message, so who has hundreds of them waiting keeps nobody else from sending.
type line []*waiter

// join puts w where its turn is: one round after the last of its flow, or in the
// present round if none of its flow waits.
func (l *line) join(w *waiter) {
	mine := func(other *waiter) bool { return other.env.flow == w.env.flow }
	if i := lastIndex(*l, mine); i >= 0 {
		w.round = (*l)[i].round + 1
	} else if i := slices.IndexFunc(*l, func(other *waiter) bool { return other.env.flow.priority == w.env.flow.priority }); i >= 0 {
		w.round = (*l)[i].round
	}
	place := lastIndex(*l, func(other *waiter) bool { return !w.before(other) }) + 1
	*l = slices.Insert(*l, place, w)
}

func (w *waiter) before(other *waiter) bool {
	return cmp.Or(cmp.Compare(w.env.flow.priority, other.env.flow.priority), cmp.Compare(w.round, other.round)) < 0
}

// lastIndex looks from the end, where both questions of join have their answer
// when only one tenant sends.
func lastIndex(l line, is func(*waiter) bool) int {
	for i := len(l) - 1; i >= 0; i-- {
		if is(l[i]) {
			return i
		}
	}
	return -1
}

// first takes the next one out.
func (l *line) first() *waiter {
	w := (*l)[0]
	(*l)[0] = nil // or its message would be remembered
	*l = (*l)[1:]
	return w
}
