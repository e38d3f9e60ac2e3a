//go:build unix

package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// drain fills the queue while no daemon runs, and measures how fast one empties
// it.
func drain(ctx context.Context, c Config, report *Report) (run Run, err error) {
	s, err := open(ctx, c, report)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	if err := s.fill(ctx, &run); err != nil {
		return run, err
	}
	return run, s.empty(ctx, &run)
}

const fillers = 4

// fill enqueues the messages. Whether the tables are analyzed is left to the
// database, as it is in life.
func (s *stage) fill(ctx context.Context, run *Run) error {
	s.say("enqueueing %d messages", s.Messages)
	o := order{Kind: inviteMany, Database: s.databaseURL, Writers: fillers, Messages: s.Messages, First: 1}
	done, err := o.carryOut(ctx, func() error { return nil })
	if err != nil {
		return err
	}
	if done.Messages != s.Messages {
		return fmt.Errorf("%d messages were enqueued, and %d wanted", done.Messages, s.Messages)
	}
	s.say("enqueued at %.0f/s", float64(done.Messages)/done.seconds())
	run.add(Figure{"filled_per_s", "enqueued beforehand, by the thousand", "1/s", float64(done.Messages) / done.seconds()})
	return s.checkpoint(ctx)
}

// empty runs the daemons until the messages are sent.
func (s *stage) empty(ctx context.Context, run *Run) error {
	transactions, err := s.transactions(ctx)
	if err != nil {
		return err
	}
	before := s.pids().take()
	s.say("draining")
	if err := s.startDaemons(ctx, "--no-api"); err != nil {
		return err
	}
	count, err := s.arrive(ctx, run, s.Messages)
	if err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		run.fail("%v", err)
	}
	after := s.pids().take()
	s.rates(run, before, after, count)
	if err := s.stopDaemons(ctx); err != nil {
		return err
	}
	ended, err := s.transactions(ctx)
	if err != nil {
		return err
	}
	run.add(Figure{"transactions_per_1000", "transactions for 1,000 mails", "", per(float64(ended-transactions-s.asked), count.Mails)})
	run.add(s.groups()...)
	return s.verify(ctx, run, expected{sent: s.Messages})
}

// rates are the figures of a drain.
func (s *stage) rates(run *Run, before, after sample, count Count) {
	seconds := time.Duration(count.Last - count.First).Seconds()
	if seconds > 0 {
		run.add(Figure{"mails_per_s", "mails, from the first to the last", "1/s", float64(count.Mails) / seconds})
	}
	run.add(
		Figure{"seconds", "from the first mail to the last", "s", seconds},
		Figure{"first_after_ms", "first mail after the start of the daemon", "ms", milliseconds(time.Duration(count.First - before.at.UnixNano()))},
	)
	s.processors(run, before, after, count.Mails)
	if peak, known := s.peakMemory(); known {
		run.add(Figure{"daemon_peak_mib", "memory of a daemon, at most", "MiB", float64(peak) / (1 << 20)})
	}
	run.add(Figure{"connections", "connections to the relay", "", float64(count.Connections)})
}

// still is how long the sink may be quiet before we ask the database whether
// there is anything left to come, and hung how long the run may.
const still, hung = 2 * time.Second, 3 * time.Minute

// arrive waits for so many mails, or until it is certain that no more will come.
func (s *stage) arrive(ctx context.Context, run *Run, want int) (count Count, err error) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	moved := time.Now()
	for {
		before := count.Mails
		if count, err = s.sink.count(ctx); err != nil || count.Mails >= want {
			return count, err
		}
		if count.Mails > before {
			moved = time.Now()
		}
		if time.Since(moved) > still {
			unfinished, err := s.unfinished(ctx)
			if err != nil || unfinished == 0 {
				return count, err
			}
			if time.Since(moved) > hung {
				run.fail("no mail came for %s, and %d messages are not finished%s", hung, unfinished, tail(s.daemons[0].log.Name()))
				return count, nil
			}
		}
		if err := s.alive(); err != nil {
			return count, err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return count, ctx.Err()
		}
	}
}

// settle waits until the database says that nothing is left to do.
func (s *stage) settle(ctx context.Context) error {
	return until(ctx, time.Minute, 20*time.Millisecond, "the database says that all is sent", func(ctx context.Context) (bool, error) {
		n, err := s.unfinished(ctx)
		return err == nil && n == 0, err
	})
}

func (s *stage) unfinished(ctx context.Context) (n int, err error) {
	s.asked++
	err = s.pool.QueryRow(ctx, `SELECT count(*) FROM mailcrane.message WHERE finished_at IS NULL`).Scan(&n)
	return n, err
}

// transactions are those of the database so far.
func (s *stage) transactions(ctx context.Context) (n int, err error) {
	err = s.pool.QueryRow(ctx, `SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()`).Scan(&n)
	return n, err
}
