package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// doubling is a group that doubles numbers, and notes what came together.
type doubling struct {
	group[int, int]
	mu       sync.Mutex
	together [][]int
	began    []time.Time
	gate     chan struct{} // each piece of work waits for it, if it is not nil
}

func newDoubling(most int, gate chan struct{}) *doubling {
	d := &doubling{gate: gate}
	d.most = most
	d.work = func(ns []int) []answer[int] {
		d.mu.Lock()
		d.together = append(d.together, slices.Clone(ns))
		d.began = append(d.began, time.Now())
		d.mu.Unlock()
		if gate != nil {
			<-gate
		}
		answers := make([]answer[int], len(ns))
		for i, n := range ns {
			answers[i].out = 2 * n
			switch n {
			case 13:
				answers[i].err = errAlone
			case 99:
				panic("99")
			}
		}
		return answers
	}
	return d
}

// ask asks for all numbers at the same time, in their order, and waits until they are
// in the group.
func (d *doubling) ask(ctx context.Context, ns ...int) *sync.Map {
	answers := &sync.Map{}
	for _, n := range ns {
		go func() {
			out, err := d.do(ctx, n)
			answers.Store(n, answer[int]{out, err})
		}()
		synctest.Wait()
	}
	return answers
}

func requireAnswer(t *testing.T, answers *sync.Map, n int, want answer[int]) {
	t.Helper()
	got, ok := answers.Load(n)
	if !ok {
		t.Fatalf("%d has no answer", n)
	}
	if a, _ := got.(answer[int]); a.out != want.out || !errors.Is(a.err, want.err) {
		t.Errorf("%d got %+v, want %+v", n, a, want)
	}
}

func TestGroup_gathersWhileItIsAtWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		d := newDoubling(3, gate)
		answers := d.ask(t.Context(), 1, 2, 3, 4, 5, 6, 7, 8)
		close(gate)
		synctest.Wait()
		for n := range 8 {
			requireAnswer(t, answers, n+1, answer[int]{out: 2 * (n + 1)})
		}
		if got := fmt.Sprint(d.together); got != "[[1] [2 3 4] [5 6 7] [8]]" {
			t.Errorf("came together: %s; the first waits for nobody, the others in their order, at most three at a time", got)
		}
		if items, groups := d.counts(); items != 8 || groups != 4 {
			t.Errorf("counted %d items in %d groups", items, groups)
		}
	})
}

func TestGroup_keepsApartWhatFollowsALargeGroup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		d := newDoubling(10, gate)
		d.apart = 5 * time.Millisecond
		began := time.Now()
		d.ask(t.Context(), 1, 2, 3)
		close(gate)
		synctest.Wait()
		d.ask(t.Context(), 4)
		<-time.After(time.Second)
		d.ask(t.Context(), 5)
		d.ask(t.Context(), 6)
		want := []time.Duration{0, 0, d.apart, time.Second, time.Second}
		var got []time.Duration
		for _, at := range d.began {
			got = append(got, at.Sub(began))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v began after %v, want %v: only the one after a group of two waits", d.together, got, want)
		}
	})
}

func TestGroup_withdrawsOnlyWhatNobodyHasBegunWith(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		d := newDoubling(3, gate)
		ctx, cancel := context.WithCancel(t.Context())
		answers := d.ask(ctx, 1, 2)
		others := d.ask(t.Context(), 3)
		cancel()
		synctest.Wait()
		requireAnswer(t, answers, 2, answer[int]{err: context.Canceled})
		if _, answered := answers.Load(1); answered {
			t.Error("the request under way was not waited for")
		}
		close(gate)
		synctest.Wait()
		requireAnswer(t, answers, 1, answer[int]{out: 2})
		requireAnswer(t, others, 3, answer[int]{out: 6})
		if got := fmt.Sprint(d.together); got != "[[1] [3]]" {
			t.Errorf("came together: %s", got)
		}
	})
}

func TestGroup_oneFailureIsNotThatOfTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		d := newDoubling(10, gate)
		answers := d.ask(t.Context(), 1, 12, 13, 14)
		close(gate)
		synctest.Wait()
		requireAnswer(t, answers, 12, answer[int]{out: 24})
		requireAnswer(t, answers, 13, answer[int]{out: 26, err: errAlone})
		requireAnswer(t, answers, 14, answer[int]{out: 28})
	})
}

func TestGroup_survivesAPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		d := newDoubling(10, gate)
		answers := d.ask(t.Context(), 1, 2, 99)
		close(gate)
		synctest.Wait()
		got, _ := answers.Load(2)
		if a, _ := got.(answer[int]); a.err == nil || !strings.Contains(a.err.Error(), "panic: 99") {
			t.Errorf("who was in the group got %+v", a)
		}
		after := d.ask(t.Context(), 5)
		synctest.Wait()
		requireAnswer(t, after, 5, answer[int]{out: 10})
	})
}
