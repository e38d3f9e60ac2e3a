package sender

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestParseRate(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Rate{
		"20": {20, time.Second}, "20/s": {20, time.Second}, "600/m": {600, time.Minute}, "10000/h": {10000, time.Hour},
		"": {}, "0": {}, "-1": {}, "1.5": {}, "20/": {}, "20/d": {}, "20/s/s": {}, "x": {}, "20 / s": {}, "1000001": {},
	} {
		got, err := ParseRate(text)
		if got != want || (err == nil) != (want != Rate{}) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		if again, err := ParseRate(got.String()); got != (Rate{}) && (err != nil || again != got) {
			t.Errorf("%q prints as %s", text, got)
		}
	}
}

func TestParseDomainRates(t *testing.T) {
	t.Parallel()
	got, err := ParseDomainRates("Gmail.com=20, *=5/m\tbücher.example=1/h")
	if err != nil || len(got) != 3 || got["gmail.com"] != (Rate{20, time.Second}) || got["*"] != (Rate{5, time.Minute}) || got["xn--bcher-kva.example"] != (Rate{1, time.Hour}) {
		t.Errorf("%v, %v", got, err)
	}
	_, err = ParseDomainRates("gmail.com, a_b=1, x.org=1 X.org=2, =3, y.org=many")
	for _, want := range []string{`"gmail.com" must be`, `"a_b" is neither`, `"X.org" is there twice`, `"" is neither`, `"y.org" must be`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}

// At 2 a second the first passes at once, two more within the second that
// anybody waits, and the others are sent away, each with a time of its own.
func TestLimit_waitsASecondAtMost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimit(Rate{2, time.Second})
		began := time.Now()
		passed := make(chan time.Duration, 3)
		for range 3 {
			go func() {
				if wait, err := l.wait(t.Context(), flow{}); wait != 0 || err != nil {
					t.Errorf("%s, %v", wait, err)
				}
				passed <- time.Since(began)
			}()
			synctest.Wait()
		}
		for _, want := range []time.Duration{1500 * time.Millisecond, 2000 * time.Millisecond, 2500 * time.Millisecond} {
			if wait, err := l.wait(t.Context(), flow{}); wait != want || err != nil {
				t.Errorf("sent away for %s, want %s: %v", wait, want, err)
			}
		}
		for _, want := range []time.Duration{0, 500 * time.Millisecond, time.Second} {
			if got := <-passed; got != want {
				t.Errorf("passed after %s, want %s", got, want)
			}
		}
	})
}

func TestLimit_takesNoTurnOfWhoGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimit(Rate{1, time.Second})
		_, _ = l.wait(t.Context(), flow{})
		errStop := errors.New("stop")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errStop)
		defer cancel()
		if _, err := l.wait(ctx, flow{}); !errors.Is(err, errStop) {
			t.Errorf("%v", err)
		}
		began := time.Now()
		if wait, err := l.wait(t.Context(), flow{}); wait != 0 || err != nil || time.Since(began) > time.Second {
			t.Errorf("the next waited %s: %s, %v", time.Since(began), wait, err)
		}
	})
}

// However many are sent away: nobody is told to come back in a year, or in no time.
func TestLimit_promisesTenMinutesAtMost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimit(Rate{1, time.Second})
		_, _ = l.wait(t.Context(), flow{})
		_ = l.limiter.Reserve()
		for range 5000 {
			if wait, err := l.wait(t.Context(), flow{}); wait <= ratePatience || wait > longestPromise || err != nil {
				t.Fatalf("sent away for %s: %v", wait, err)
			}
		}
	})
}

func TestDomainLimits(t *testing.T) {
	t.Parallel()
	d, err := newDomainLimits(map[string]Rate{"gmail.com": {20, time.Second}, "*": {5, time.Minute}, "free.example": {}})
	if err != nil {
		t.Fatal(err)
	}
	if l := d.of("GMAIL.com"); l.every != 50*time.Millisecond || d.of("gmail.com") != l {
		t.Errorf("gmail.com: %v", l)
	}
	if a, b := d.of("a.example"), d.of("b.example"); a == b || a.every != 12*time.Second {
		t.Errorf("* is one limit for all, or the wrong one: %v", a)
	}
	if d.of("free.example") != nil {
		t.Error("free.example has a limit")
	}
	none, err := newDomainLimits(nil)
	if err != nil || none.of("a.example") != nil {
		t.Errorf("without rates there is a limit: %v", err)
	}
	for _, rates := range []map[string]Rate{{"no_name": {1, time.Second}}, {"a.example": {-1, time.Second}}, {"a.example": {Messages: 1}}} {
		if _, err := newDomainLimits(rates); err == nil {
			t.Errorf("%v is accepted", rates)
		}
	}
}

func TestDomainLimits_forgetWhatTheyCanFirst(t *testing.T) {
	t.Parallel()
	d, err := newDomainLimits(map[string]Rate{"gmail.com": {1, time.Hour}, "*": {1, time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	d.most = 100
	named, used := d.of("gmail.com"), d.of("used.example")
	_, _ = used.wait(t.Context(), flow{})
	for n := range 10 * d.most {
		d.of(fmt.Sprintf("rested%d.example", n))
		if len(d.limits) > d.most {
			t.Fatalf("%d domains are remembered", len(d.limits))
		}
	}
	if d.of("used.example") != used {
		t.Error("one in use was forgotten before those at rest")
	}
	for n := range 10 * d.most {
		_, _ = d.of(fmt.Sprintf("busy%d.example", n)).wait(t.Context(), flow{})
		if len(d.limits) > d.most {
			t.Fatalf("%d domains are remembered", len(d.limits))
		}
	}
	if d.of("gmail.com") != named {
		t.Error("one with a rate of its own was forgotten")
	}
}

// Fifty messages of one tenant ask again and again for what is left of a limit. One
// of another tenant passes all the same, and soon; so do many, which get their share.
func TestLimit_keepsNobodyWaitingBehindACrowd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var all sync.WaitGroup
		l := newLimit(Rate{20, time.Second})
		passed := map[string]*atomic.Int32{"many": {}, "several": {}}
		insist := func(tenant string) {
			for ctx.Err() == nil {
				if comeBack, err := l.wait(ctx, flow{tenant, 2}); comeBack == 0 && err == nil {
					passed[tenant].Add(1)
				}
				<-time.After(100 * time.Millisecond) // of the bubble's clock, and however long it was told to wait
			}
		}
		for range 50 {
			all.Go(func() { insist("many") })
		}
		<-time.After(10 * time.Second)
		for range 10 {
			began := time.Now()
			if comeBack, err := l.wait(ctx, flow{"single", 2}); comeBack != 0 || err != nil || time.Since(began) > sharePatience {
				t.Errorf("it waited %s, and is to come back in %s: %v", time.Since(began), comeBack, err)
			}
			<-time.After(5 * time.Second)
		}
		for range 30 {
			all.Go(func() { insist("several") })
		}
		<-time.After(5 * time.Second)
		passed["many"].Store(0)
		passed["several"].Store(0)
		<-time.After(time.Minute)
		if many, several := passed["many"].Load(), passed["several"].Load(); several < 450 || many < 450 || many+several < 1100 {
			t.Errorf("in a minute passed %d of one tenant and %d of the other", many, several)
		}
		cancel()
		all.Wait()
	})
}

// Who was sent away comes back as soon as if the crowd had not been sent away before.
func TestLimit_promisesToEachTenantForItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimit(Rate{1, time.Minute})
		_, _ = l.wait(t.Context(), flow{"many", 2})
		for range 9 {
			_, _ = l.wait(t.Context(), flow{"many", 2})
		}
		if wait, err := l.wait(t.Context(), flow{"single", 2}); wait != time.Minute || err != nil {
			t.Errorf("sent away for %s: %v", wait, err)
		}
		<-time.After(longestPromise)
		_, _ = l.wait(t.Context(), flow{"late", 2})
		_, _ = l.wait(t.Context(), flow{"late", 2})
		if _, known := l.promised[flow{"single", 2}]; known || len(l.promised) != 1 {
			t.Errorf("old promises are remembered: %v", l.promised)
		}
	})
}
