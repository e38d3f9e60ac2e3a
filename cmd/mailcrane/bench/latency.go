//go:build unix

package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// latency measures how long a message takes at a steady rate: from the commit to
// the relay's answer, with a daemon that listens and with one that polls, and to
// the answer of the HTTP API; and, without a daemon, the commits of bare rows.
//
// Messages are due at fixed moments, whatever became of those before: a stall
// counts for all that it keeps waiting, not for one.
func latency(ctx context.Context, c Config, report *Report) (run Run, err error) {
	s, err := open(ctx, c, report)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	phases := []phase{
		{name: "listen", label: "listening", kind: inviteOne, serve: []string{"--no-api"}},
		{name: "poll", label: "polling", kind: inviteOne, serve: []string{"--no-api", "--poll-only=true"}},
		{name: "http", label: "HTTP", kind: postOne},
	}
	if c.PollOnly {
		phases = phases[1:]
		phases[1].serve = []string{"--poll-only=true"}
	}
	for _, p := range phases {
		s.say("%s, %g messages a second for %s", p.label, c.Rate, c.Duration)
		if err := s.steady(ctx, &run, p); err != nil {
			return run, err
		}
	}
	if err := s.compare(ctx, &run); err != nil {
		return run, err
	}
	return run, s.verify(ctx, &run, expected{sent: s.written})
}

// compare measures commits of bare rows at the same rate, of which the slow ones are
// the machine's doing.
func (s *stage) compare(ctx context.Context, run *Run) (err error) {
	if err := createBare(ctx, s.pool); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dropBare(context.WithoutCancel(ctx), s.pool)) }()
	const label = "two bare rows, commit"
	s.say("%s, %g a second for %s", label, s.Rate, s.Duration)
	written := s.written
	done, err := s.produce(ctx, order{Kind: bareInsert, Writers: s.Producers, Rate: s.Rate, Duration: s.Duration, First: written + 1})
	s.written = written // into other tables
	if err != nil {
		return err
	}
	run.add(done.Took.figures("bare_commit", label)...)
	if post, measured := run.Figures.get("http_post_p99_ms"); measured && done.Took.P99 > 0 {
		run.add(Figure{"post_to_bare_p99", "HTTP, POST to bare rows, 99th percentile", "", post.Value / done.Took.P99})
	}
	return nil
}

// phase is one way in which messages come and are noticed.
type phase struct {
	name, label string
	kind        kind
	serve       []string // arguments of the daemons
}

const warmUp = 20 // messages that open connections and fill caches

// steady measures one phase.
func (s *stage) steady(ctx context.Context, run *Run, p phase) error {
	if err := s.startDaemons(ctx, p.serve...); err != nil {
		return err
	}
	o := order{Kind: p.kind, Writers: s.Producers, Rate: s.Rate, Duration: s.Duration, First: s.written + warmUp + 1, Each: true}
	if p.kind == postOne {
		line, err := s.daemons[0].said(ctx, "HTTP API listens")
		if err != nil {
			return err
		}
		o.API = fmt.Sprintf("http://%s", line["address"])
	}
	if err := s.warmUp(ctx, run, o); err != nil {
		return err
	}
	before := s.pids().take()
	done, err := s.produce(ctx, o)
	if err != nil {
		return err
	}
	if _, err := s.arrive(ctx, run, s.written); err != nil {
		return err
	}
	after := s.pids().take()
	if err := s.settle(ctx); err != nil {
		run.fail("%v", err)
	}
	if err := s.waits(ctx, run, p, done); err != nil {
		return err
	}
	s.shares(run, p.name+"_", p.label+", ", before, after)
	err = s.stopDaemons(ctx)
	s.daemons = nil // the next phase has others
	return err
}

// warmUp sends a few messages before it counts.
func (s *stage) warmUp(ctx context.Context, run *Run, o order) error {
	o.Writers, o.Messages, o.Duration, o.Rate, o.First, o.Database = 1, warmUp, 0, 0, s.written+1, s.databaseURL
	if _, err := o.carryOut(ctx, func() error { return nil }); err != nil {
		return err
	}
	s.written += warmUp
	_, err := s.arrive(ctx, run, s.written)
	return err
}

// waits are the figures of a phase.
func (s *stage) waits(ctx context.Context, run *Run, p phase, done outcome) error {
	var arrivals []Arrival
	if err := s.sink.ask(ctx, "arrivals", &arrivals); err != nil {
		return err
	}
	at := make(map[int]int64, len(arrivals))
	last := done.Ended
	for _, a := range arrivals {
		at[a.Number] = a.At
		last = max(last, a.At)
	}
	var delivered, whole []time.Duration
	for _, call := range done.Calls {
		if arrived, came := at[call.Number]; came {
			// A mail may be there before its producer has heard of the commit.
			delivered = append(delivered, time.Duration(max(0, arrived-call.At)))
			whole = append(whole, time.Duration(arrived-call.Due))
		}
	}
	written := "commit"
	if p.kind == postOne {
		written = "POST"
	}
	run.add(Figure{p.name + "_messages", p.label + ", messages", "", float64(len(done.Calls))})
	run.add(done.Took.figures(p.name+"_"+strings.ToLower(written), p.label+", "+written)...)
	run.add(waitsOf(delivered).figures(p.name+"_delivery", p.label+", from there to the relay's 250")...)
	run.add(waitsOf(whole).figures(p.name+"_whole", p.label+", both")...)
	run.add(Figure{p.name + "_empty_ms", p.label + ", queue empty after the last " + written, "ms", milliseconds(time.Duration(last - done.Ended))})
	return nil
}
