//go:build unix

package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
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
	return s.verify(ctx, run, s.Messages)
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

// processors are the figures of processor time for some mails.
func (s *stage) processors(run *Run, before, after sample, mails int) {
	used := after.since(before)
	if !used.known {
		run.remark("processor time: not available on this system")
		return
	}
	one := func(name, label string, d time.Duration) {
		run.add(Figure{name + "_cpu_per_1000", "processor time of " + label + " for 1,000 mails", "s", per(d.Seconds(), mails)})
	}
	one("daemon", "the daemon", used.daemons)
	if s.postgres != 0 {
		one("postgres", "PostgreSQL", used.postgres)
		one("both", "both", used.daemons+used.postgres)
	} else {
		run.remark("processor time of PostgreSQL: not known, its process is not to be seen from here")
	}
	if s.producer != 0 {
		one("producer", "the producers", used.producer)
	}
	one("sink", "the relay (not ours)", used.sink)
	s.foreign(run, before, after)
}

// foreign is what others did meanwhile. A database server that we do not see
// counts among them.
func (s *stage) foreign(run *Run, before, after sample) {
	used := after.since(before)
	elapsed := after.at.Sub(before.at).Seconds()
	if !used.known || elapsed <= 0 {
		return
	}
	share := max(0, 100*(used.busy-used.ours).Seconds()/elapsed/cores())
	run.Foreign = &share
}

func per(amount float64, mails int) float64 { return amount / float64(max(1, mails)) * 1000 }

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
		select {
		case <-ticker.C:
		case <-s.daemons[0].process.Done():
			return count, fmt.Errorf("a daemon has ended: %w%s", s.daemons[0].process.Err(), tail(s.daemons[0].log.Name()))
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

// verify compares what the database says with what the sink has got, and asks the
// audit.
func (s *stage) verify(ctx context.Context, run *Run, want int) error {
	count, err := s.sink.count(ctx)
	if err != nil {
		return err
	}
	var sent, others int
	err = s.pool.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE status = 'sent'), count(*) FILTER (WHERE status <> 'sent')
		FROM mailcrane.message`).Scan(&sent, &others)
	if err != nil {
		return err
	}
	if sent != want || others > 0 {
		run.fail("%d messages were to be sent; %d are, and %d are not", want, sent, others)
	}
	run.compare(count, want)
	findings, err := outbox.Audit(ctx, s.pool, 0)
	if err != nil {
		return err
	}
	for i, f := range findings {
		if i == 10 {
			run.fail("the audit: %d more findings", len(findings)-i)
			break
		}
		run.fail("the audit: %s, %s: %s", f.Severity, f.Check, f.Detail)
	}
	return nil
}

// compare says what is wrong with the mails.
func (r *Run) compare(count Count, want int) {
	if count.Duplicates > 0 {
		r.fail("%d mails came twice, such as %q", count.Duplicates, count.Examples)
	}
	if count.Nameless > 0 {
		r.fail("%d mails had no Message-ID", count.Nameless)
	}
	if missing := want - count.Unique; missing > 0 {
		r.fail("%d of %d mails are lost: the relay has not got them", missing, want)
	} else if missing < 0 {
		r.fail("the relay has got %d mails that nobody wrote", -missing)
	}
}
