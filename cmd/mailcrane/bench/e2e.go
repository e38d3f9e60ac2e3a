//go:build unix

package bench

import (
	"context"
	"errors"
	"time"
)

// endToEnd lets producers write as fast as they can while a daemon sends.
func endToEnd(ctx context.Context, c Config, report *Report) (run Run, err error) {
	s, err := open(ctx, c, report)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	if err := s.startDaemons(ctx, "--no-api"); err != nil {
		return run, err
	}
	o := order{Kind: inviteOne, Writers: c.Producers, Duration: c.Duration, First: warmUp + 1}
	if err := s.warmUp(ctx, &run, o); err != nil {
		return run, err
	}
	transactions, err := s.transactions(ctx)
	if err != nil {
		return run, err
	}
	s.asked = 0
	before := s.pids().take()
	s.say("writing for %s, and sending", c.Duration)
	done, err := s.produce(ctx, o)
	if err != nil {
		return run, err
	}
	count, err := s.arrive(ctx, &run, s.written)
	if err != nil {
		return run, err
	}
	if err := s.settle(ctx); err != nil {
		run.fail("%v", err)
	}
	if err := s.flow(ctx, &run, done, count); err != nil {
		return run, err
	}
	s.processors(&run, before, s.pids().take(), done.Messages)
	if err := s.stopDaemons(ctx); err != nil {
		return run, err
	}
	ended, err := s.transactions(ctx)
	if err != nil {
		return run, err
	}
	run.add(Figure{"transactions_per_1000", "transactions for 1,000 mails, the producers' too", "", per(float64(ended-transactions-s.asked), done.Messages)})
	run.add(s.groups()...)
	return run, s.verify(ctx, &run, expected{sent: s.written})
}

// flow is what went in and out.
func (s *stage) flow(ctx context.Context, run *Run, done outcome, count Count) error {
	var arrivals []Arrival
	if err := s.sink.ask(ctx, "arrivals", &arrivals); err != nil {
		return err
	}
	delivered := 0
	for _, a := range arrivals {
		if a.At >= done.Began && a.At <= done.Ended {
			delivered++
		}
	}
	run.add(
		Figure{"submitted_per_s", "written", "1/s", float64(done.Messages) / done.seconds()},
		Figure{"delivered_per_s", "sent meanwhile", "1/s", float64(delivered) / done.seconds()},
		Figure{"empty_s", "queue empty after the last commit", "s", max(0, time.Duration(count.Last-done.Ended).Seconds())},
		Figure{"overall_per_s", "sent, until the queue was empty", "1/s", float64(done.Messages) / time.Duration(max(count.Last, done.Ended)-done.Began).Seconds()},
	)
	run.add(done.Took.figures("commit", "commit")...)
	return nil
}
