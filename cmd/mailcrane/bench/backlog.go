//go:build unix

package bench

import (
	"context"
	"errors"
	"time"
)

// backlog measures a drain twice: in a database that holds nothing else, and in
// one with millions of messages that wait and that are finished.
func backlog(ctx context.Context, c Config, report *Report) (run Run, err error) {
	s, err := open(ctx, c, report)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	plain, err := s.plainly(ctx)
	if err != nil {
		return run, err
	}
	if s, err = s.again(ctx, report); err != nil {
		return run, err
	}
	if err := s.pile(ctx); err != nil {
		return run, err
	}
	letGo, err := s.holdSnapshot(ctx)
	if err != nil {
		return run, err
	}
	err = s.emptyPart(ctx, &run)
	if err := errors.Join(err, letGo()); err != nil {
		return run, err
	}
	for _, name := range []string{"mails_per_s", "both_cpu_per_1000"} {
		with, found := run.Figures.get(name)
		without, foundToo := plain.Figures.get(name)
		if found && foundToo && without.Value > 0 {
			run.add(Figure{"ratio_" + name, "backlog to plain drain, " + with.Label, "", with.Value / without.Value})
		}
	}
	for _, f := range plain.Figures {
		run.add(Figure{"plain_" + f.Name, "plain drain: " + f.Label, f.Unit, f.Value})
	}
	run.Failures = append(plain.Failures, run.Failures...)
	run.Remarks = append(plain.Remarks, run.Remarks...)
	if plain.Foreign != nil && run.Foreign != nil { // a ratio says nothing if these differ
		run.add(
			Figure{"foreign_cpu_percent", "other programs' share of the processors", "%", *run.Foreign},
			Figure{"plain_foreign_cpu_percent", "plain drain: other programs' share of the processors", "%", *plain.Foreign},
		)
		*run.Foreign = max(*run.Foreign, *plain.Foreign)
	}
	return run, nil
}

// plainly is the drain to compare with.
func (s *stage) plainly(ctx context.Context) (run Run, err error) {
	if err := s.fill(ctx, &run); err != nil {
		return run, err
	}
	return run, s.empty(ctx, &run)
}

// again is a new stage for the second half of a run.
func (s *stage) again(ctx context.Context, report *Report) (*stage, error) {
	next := &stage{}
	err := s.close(ctx)
	if err == nil {
		next, err = open(ctx, s.Config, report)
	}
	if err != nil {
		return &stage{}, err // which is nothing to close
	}
	return next, nil
}

// emptyPart runs the daemons until as many are sent as are to be measured. The
// rest goes on waiting.
func (s *stage) emptyPart(ctx context.Context, run *Run) error {
	transactions, err := s.transactions(ctx)
	if err != nil {
		return err
	}
	before := s.pids().take()
	s.say("draining %d of %d", s.Messages, s.Messages+s.Waiting)
	if err := s.startDaemons(ctx, "--no-api"); err != nil {
		return err
	}
	count, err := s.arrive(ctx, run, s.Messages)
	if err != nil {
		return err
	}
	s.rates(run, before, s.pids().take(), count)
	if err := s.stopDaemons(ctx); err != nil {
		return err
	}
	ended, err := s.transactions(ctx)
	if err != nil {
		return err
	}
	if count, err = s.sink.count(ctx); err != nil {
		return err
	}
	run.add(Figure{"transactions_per_1000", "transactions for 1,000 mails", "", per(float64(ended-transactions-s.asked), count.Mails)})
	run.add(s.groups()...)
	return s.verify(ctx, run, expected{sent: s.Finished + count.Mails, before: s.Finished, waiting: s.Messages + s.Waiting - count.Mails})
}

// holdSnapshot keeps a transaction open that sees the database as it is now, and
// so keeps everything that happens from being cleaned up, as a long report or a
// forgotten session does.
func (s *stage) holdSnapshot(ctx context.Context) (letGo func() error, err error) {
	if s.Hold == 0 {
		return func() error { return nil }, nil
	}
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return nil, err
	}
	var one int
	_, err = tx.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY`)
	if err == nil {
		err = tx.QueryRow(ctx, `SELECT 1`).Scan(&one)
	}
	if err != nil {
		return nil, errors.Join(err, tx.Rollback(ctx))
	}
	ended, end := context.WithTimeout(ctx, s.Hold)
	released := make(chan error, 1)
	go func() {
		<-ended.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		released <- tx.Rollback(ctx)
	}()
	return func() error {
		end()
		return <-released
	}, nil
}
