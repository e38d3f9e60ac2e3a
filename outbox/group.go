package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"
)

// errAlone answers a request that has to be carried out by itself: it would hold
// up, or spoil, the others of its group.
var errAlone = errors.New("not possible in a group")

// group carries out together what many goroutines ask for at the same time:
// their statements become one, and so do their commits. While a group is at work
// the next one gathers, so that groups grow with the load, and a single request
// on a quiet system waits for nobody.
type group[In, Out any] struct {
	// work answers the requests, each in its place. It runs on a goroutine of the
	// group; when it panics all of them get an error.
	work  func([]In) []answer[Out]
	most  int           // requests in one group
	apart time.Duration // between the beginnings of two groups, so that the second is worth it

	mu      sync.Mutex
	waiting []*request[In, Out] // first come, first served
	running bool
	last    time.Time // when the last group began
	size    int       // and how large it was
	items   int64
	groups  int64
}

type answer[Out any] struct {
	out Out
	err error
}

type request[In, Out any] struct {
	in     In
	answer chan answer[Out]
}

// do gives the answer to one request. It waits as long as that takes: when ctx
// ends, only a request that nobody has begun with is withdrawn.
func (g *group[In, Out]) do(ctx context.Context, in In) (Out, error) {
	r := &request[In, Out]{in, make(chan answer[Out], 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, r)
	start := !g.running
	g.running = true
	g.mu.Unlock()
	if start {
		go g.run()
	}
	select {
	case a := <-r.answer:
		return a.out, a.err
	case <-ctx.Done():
	}
	if g.withdraw(r) {
		return *new(Out), ctx.Err()
	}
	a := <-r.answer
	return a.out, a.err
}

func (g *group[In, Out]) withdraw(r *request[In, Out]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, r)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	return i >= 0
}

// run works until nobody waits.
func (g *group[In, Out]) run() {
	for {
		if early := g.apart - time.Since(g.last); early > 0 && g.size > 1 {
			<-time.After(early)
		} else {
			runtime.Gosched() // those who were woken together come together
		}
		requests := g.take()
		if len(requests) == 0 {
			return
		}
		ins := make([]In, len(requests))
		for i, r := range requests {
			ins[i] = r.in
		}
		for i, a := range g.answers(ins) {
			requests[i].answer <- a
		}
	}
}

// take gives the next group; without one the work is over.
func (g *group[In, Out]) take() []*request[In, Out] {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(len(g.waiting), g.most)
	requests := slices.Clone(g.waiting[:n])
	g.waiting = slices.Delete(g.waiting, 0, n)
	g.running = n > 0
	if n > 0 {
		g.last, g.size = time.Now(), n
		g.items += int64(n)
		g.groups++
	}
	return requests
}

func (g *group[In, Out]) answers(ins []In) (answers []answer[Out]) {
	defer func() {
		if p := recover(); p != nil {
			answers = everyone[Out](len(ins), fmt.Errorf("panic: %v", p))
		}
	}()
	return g.work(ins)
}

// everyone answers n requests with the same error.
func everyone[Out any](n int, err error) []answer[Out] {
	return slices.Repeat([]answer[Out]{{err: err}}, n)
}

// counts tells how many requests there were, and in how many groups.
func (g *group[In, Out]) counts() (items, groups int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.items, g.groups
}

// groups are the transactions that messages share.
type groups struct {
	open     *group[string, loaded]
	handover *group[handing, bool]
	close    *group[verdict, bool]
	giveBack *group[returning, struct{}]
}

// mostInGroup bounds the time for which one message can keep the others waiting.
const mostInGroup = 200

// newGroups lets no handover wait for company: a connection to the next hop waits
// with it. Whoever opens comes from a fetch of many, and nobody waits for a close.
func (r *Relay) newGroups() groups {
	const later = 10 * time.Millisecond
	return groups{
		open:     newGroup(later, r.loadAll),
		handover: newGroup(0, r.handOver),
		close:    newGroup(later, r.recordAll),
		giveBack: newGroup(later, r.giveBackAll),
	}
}

func newGroup[In, Out any](apart time.Duration, work func([]In, bool) []answer[Out]) *group[In, Out] {
	return &group[In, Out]{most: mostInGroup, apart: apart, work: func(ins []In) []answer[Out] { return work(ins, false) }}
}

// byItself carries out one request that was not possible in a group.
func byItself[In, Out any](r *Relay, in In, work func(ins []In, alone bool) []answer[Out]) (Out, error) {
	r.alone <- struct{}{}
	defer func() { <-r.alone }()
	a := work([]In{in}, true)[0]
	return a.out, a.err
}

// log tells how many messages shared a transaction.
func (g groups) log(logger *slog.Logger) {
	openItems, openGroups := g.open.counts()
	handoverItems, handoverGroups := g.handover.counts()
	closeItems, closeGroups := g.close.counts()
	logger.Info("groups written",
		"open_items", openItems, "open_groups", openGroups,
		"handover_items", handoverItems, "handover_groups", handoverGroups,
		"close_items", closeItems, "close_groups", closeGroups)
}
