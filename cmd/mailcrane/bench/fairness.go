//go:build unix

package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// fairness measures how long single messages of one tenant wait while another one
// has filled the queue, with batches and with single messages, next to how long they
// wait on a quiet system. The relay is slow enough for the queue to stay full.
func fairness(ctx context.Context, c Config, report *Report) (run Run, err error) {
	for _, p := range []crowding{
		{name: "quiet", label: "an empty queue"},
		{name: "batch", label: "behind batches", kind: inviteMany},
		{name: "single", label: "behind single messages", kind: inviteEach},
	} {
		if err := behind(ctx, c, report, &run, p); err != nil {
			return run, err
		}
	}
	return run, nil
}

// crowding is how the queue was filled.
type crowding struct {
	name, label string
	kind        kind // empty: it was not
}

const crowdTenant, singleTenant = "crowd", "single"

// behind measures one of them, in a database of its own.
func behind(ctx context.Context, c Config, report *Report, run *Run, p crowding) (err error) {
	s, err := open(ctx, c, report)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	crowd := 0
	if p.kind != "" {
		crowd = s.Messages
		s.say("enqueueing %d messages of one tenant", crowd)
		o := order{Kind: p.kind, Tenant: crowdTenant, Database: s.databaseURL, Writers: fillers, Messages: crowd, First: 1}
		if _, err := o.carryOut(ctx, func() error { return nil }); err != nil {
			return err
		}
		if err := s.checkpoint(ctx); err != nil {
			return err
		}
	}
	s.say("%s: %g messages a second of another tenant for %s", p.label, s.Rate, s.Duration)
	if err := s.startDaemons(ctx, "--no-api"); err != nil {
		return err
	}
	before := s.pids().take()
	done, err := s.produce(ctx, order{
		Kind: inviteOne, Tenant: singleTenant, Writers: s.Producers, Rate: s.Rate, Duration: s.Duration, First: crowd + 1, Each: true,
	})
	if err != nil {
		return err
	}
	waiting, err := s.unfinished(ctx)
	if err != nil {
		return err
	}
	if crowd > 0 {
		run.add(Figure{p.name + "_waiting", p.label + ", messages that still waited at the end", "", float64(waiting)})
		if waiting < crowd/10 {
			run.fail("%s: only %d of %d messages waited to the end: take more of them, or a slower relay", p.label, waiting, crowd)
		}
	}
	if err := s.singlesSent(ctx); err != nil {
		run.fail("%s: %v", p.label, err)
	}
	s.shares(run, p.name+"_", p.label+", ", before, s.pids().take())
	return errors.Join(s.waits(ctx, run, phase{name: p.name, label: p.label, kind: inviteOne}, done), s.endEarly(ctx, run, crowd+done.Messages))
}

// singlesSent waits until nothing of the tenant with the single messages is left.
func (s *stage) singlesSent(ctx context.Context) error {
	return until(ctx, time.Minute, 50*time.Millisecond, "the single messages are sent", func(ctx context.Context) (bool, error) {
		var left int
		err := s.pool.QueryRow(ctx, `SELECT count(*) FROM mailcrane.message WHERE finished_at IS NULL AND tenant = $1`, singleTenant).Scan(&left)
		return err == nil && left == 0, err
	})
}

// endEarly stops the daemons while messages wait, and compares the accounts.
func (s *stage) endEarly(ctx context.Context, run *Run, written int) error {
	if err := s.stopDaemons(ctx); err != nil {
		return fmt.Errorf("stop the daemons: %w", err)
	}
	count, err := s.sink.count(ctx)
	if err != nil {
		return err
	}
	return s.verify(ctx, run, expected{sent: count.Mails, waiting: written - count.Mails})
}
