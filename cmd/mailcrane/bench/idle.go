//go:build unix

package bench

import (
	"context"
	"errors"
	"time"
)

// settling is how long a daemon that has just started gets to come to rest.
const settling = 3 * time.Second

// idle measures what a daemon costs that has nothing to do.
func idle(ctx context.Context, c Config, report *Report) (run Run, err error) {
	s, err := open(ctx, c, report)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	if err := s.startDaemons(ctx, "--no-api"); err != nil {
		return run, err
	}
	if err := s.watch(ctx, settling); err != nil {
		return run, err
	}
	began, err := s.transactions(ctx)
	if err != nil {
		return run, err
	}
	before := s.pids().take()
	s.say("watching for %s", c.Duration)
	if err := s.watch(ctx, c.Duration); err != nil {
		return run, err
	}
	after := s.pids().take()
	ended, err := s.transactions(ctx)
	if err != nil {
		return run, err
	}
	s.shares(&run, "", "", before, after)
	run.add(Figure{"transactions_per_s", "transactions", "1/s", float64(ended-began) / after.at.Sub(before.at).Seconds()})
	if peak, known := s.peakMemory(); known {
		run.add(Figure{"daemon_peak_mib", "memory of a daemon, at most", "MiB", float64(peak) / (1 << 20)})
	}
	if err := s.stopDaemons(ctx); err != nil {
		return run, err
	}
	return run, s.verify(ctx, &run, expected{})
}

// watch waits, and looks whether all is well meanwhile.
func (s *stage) watch(ctx context.Context, long time.Duration) error {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	enough := time.After(long)
	for {
		select {
		case <-enough:
			return s.alive()
		case <-ticker.C:
			if err := s.alive(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
