package sender

import (
	"testing"
	"testing/synctest"
	"time"
)

// One row per story; its steps are a verdict each, or a wait in between.
func TestBreaker(t *testing.T) {
	t.Parallel()
	type step struct {
		verdict verdict
		wait    time.Duration // passes before the verdict
		want    time.Duration // the breaker is open for so long after it
	}
	times := func(n int, s step) []step {
		steps := make([]step, n)
		for i := range steps {
			steps[i] = s
		}
		return steps
	}
	for name, steps := range map[string][]step{
		"four failures do not open it":   times(4, step{verdict: fails}),
		"five do":                        append(times(4, step{verdict: fails}), step{verdict: fails, want: 5 * time.Second}),
		"a message between them counts":  append(append(times(4, step{verdict: fails}), step{verdict: works}), times(4, step{verdict: fails})...),
		"one without verdict does not":   append(append(times(4, step{verdict: fails}), step{verdict: noVerdict}), step{verdict: fails, want: 5 * time.Second}),
		"a refusal opens it at once":     {{verdict: refusesUs, want: 5 * time.Second}},
		"a trial that works closes it":   append([]step{{verdict: refusesUs, want: 5 * time.Second}, {verdict: works, wait: 5 * time.Second}}, times(4, step{verdict: fails})...),
		"a trial without verdict is one": {{verdict: refusesUs, want: 5 * time.Second}, {verdict: noVerdict, wait: 5 * time.Second}, {verdict: works}},
		"each trial that fails doubles the time": {
			{verdict: refusesUs, want: 5 * time.Second},
			{verdict: fails, wait: 5 * time.Second, want: 10 * time.Second},
			{verdict: refusesUs, wait: 10 * time.Second, want: 20 * time.Second},
			{verdict: refusesUs, wait: 20 * time.Second, want: 40 * time.Second},
			{verdict: refusesUs, wait: 40 * time.Second, want: 60 * time.Second},
			{verdict: refusesUs, wait: 60 * time.Second, want: 60 * time.Second},
			{verdict: fails, wait: 60 * time.Second, want: 30 * time.Second},
			{verdict: fails, wait: 30 * time.Second, want: 30 * time.Second},
			{verdict: works, wait: 30 * time.Second},
			{verdict: refusesUs, want: 5 * time.Second},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := &breaker{shortest: 5 * time.Second, longest: time.Minute}
				for i, s := range steps {
					if s.wait > 0 {
						<-time.After(s.wait - time.Nanosecond)
						if _, wait := b.enter(); wait != time.Nanosecond {
							t.Fatalf("step %d: the wait is %s, a nanosecond before the trial", i, wait)
						}
						<-time.After(time.Nanosecond)
					}
					round, wait := b.enter()
					if wait != 0 {
						t.Fatalf("step %d: still open for %s", i, wait)
					}
					b.leave(round, s.verdict)
					if got := b.wait(); got != s.want {
						t.Fatalf("step %d: open for %s, want %s", i, got, s.want)
					}
				}
			})
		})
	}
}

func TestBreaker_makesOneTrialAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &breaker{shortest: 5 * time.Second, longest: time.Minute}
		round, _ := b.enter()
		b.leave(round, refusesUs)
		<-time.After(5 * time.Second)
		trial, wait := b.enter()
		if wait != 0 {
			t.Fatalf("no trial: %s", wait)
		}
		if _, wait := b.enter(); wait != 5*time.Second {
			t.Errorf("the wait during a trial is %s", wait)
		}
		if b.leave(trial, works) != closed {
			t.Error("it did not close")
		}
		if _, wait := b.enter(); wait != 0 {
			t.Errorf("closed, and the wait is %s", wait)
		}
	})
}

// Conversations that began before it opened say nothing about now: they neither
// lengthen the time, nor close it, nor take the place of a trial.
func TestBreaker_ignoresOldNews(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &breaker{shortest: 5 * time.Second, longest: time.Minute}
		var rounds []int
		for range 8 {
			round, _ := b.enter()
			rounds = append(rounds, round)
		}
		for i, round := range rounds {
			if got := b.leave(round, refusesUs); (got == opened) != (i == 0) {
				t.Errorf("refusal %d: %d", i, got)
			}
		}
		if b.leave(rounds[0], works) != unchanged || b.wait() != 5*time.Second {
			t.Errorf("open for %s, want 5 s", b.wait())
		}
		<-time.After(5 * time.Second)
		_, _ = b.enter()
		b.leave(rounds[0], noVerdict)
		if b.wait() == 0 {
			t.Error("there can be a second trial")
		}
	})
}
