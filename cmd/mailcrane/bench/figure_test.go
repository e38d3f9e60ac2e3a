package bench

import (
	"encoding/json"
	"slices"
	"testing"
	"time"
)

func TestWaitsOf_takesWhatIsInTheMiddleAndAtTheEnd(t *testing.T) {
	t.Parallel()
	var all []time.Duration
	for i := range 101 {
		all = append(all, time.Duration(100-i)*time.Millisecond)
	}
	if got := waitsOf(all); got != (Waits{P50: 50, P99: 99, Max: 100}) {
		t.Errorf("%+v", got)
	}
	if got := waitsOf(nil); got != (Waits{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestNumberIn_readsTheRecipient(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]int{
		"RCPT TO:<" + recipient(12345) + ">": 12345, "RCPT TO:<u7>": 7, "RCPT TO:<x7@y>": -1, "RCPT TO:<user@y>": -1, "RCPT": -1, "rcpt to: <u0@y>": 0,
	} {
		if got := numberIn([]byte(line)); got != want {
			t.Errorf("%q: %d, want %d", line, got, want)
		}
	}
}

func TestSummary_hasTheMedianOfAllRuns(t *testing.T) {
	t.Parallel()
	rate := func(v float64) Figure { return Figure{"rate", "mails", "1/s", v} }
	runs := []Run{
		{Figures: Figures{rate(3), {"memory", "memory", "MiB", 7}}}, {Figures: Figures{rate(1)}}, {Figures: Figures{rate(10)}}, {Figures: Figures{rate(4)}},
	}
	text, err := json.Marshal(summarize(runs))
	want := `{"memory":{"unit":"MiB","median":7,"least":7,"most":7},"rate":{"unit":"1/s","median":3.5,"least":1,"most":10}}`
	if err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
	if text, err := json.Marshal(runs[0].Figures); err != nil || string(text) != `{"memory":7,"rate":3}` {
		t.Errorf("%s, %v", text, err)
	}
}

// The times of calls at a rate count from when they should have begun.
func TestOrder_sumsFromTheMomentThatWasMeant(t *testing.T) {
	t.Parallel()
	began := time.Now()
	at := func(ms int64) int64 { return began.UnixNano() + ms*int64(time.Millisecond) }
	done := order{Kind: inviteMany, Messages: 2500, Each: true}.sum(began, []Commit{{1, at(0), at(10)}, {1001, at(0), at(40)}, {2001, at(10), at(30)}})
	if done.Messages != 2500 || done.seconds() != 0.04 || done.Took != (Waits{P50: 20, P99: 20, Max: 40}) || len(done.Calls) != 3 {
		t.Errorf("%+v", done)
	}
	if slices.Max([]int64{done.Began, done.Ended}) != at(40) {
		t.Errorf("%+v", done)
	}
}
