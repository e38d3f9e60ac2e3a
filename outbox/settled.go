package outbox

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
)

// settled are the jobs in whose rows we have written ourselves what River's
// completer is about to write: that they are done, or come back later. It would
// find them not running any more, at the price of a statement; or running again,
// with the number that the attempt had which was given back.
type settled struct {
	mu   sync.Mutex
	jobs map[int64]int // how often it has to be left alone
}

func newSettled() *settled { return &settled{jobs: map[int64]int{}} }

// add is called before the worker returns, and by that before take.
func (s *settled) add(job int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs[job]++
}

func (s *settled) take(job int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.jobs[job]
	if n <= 1 {
		delete(s.jobs, job)
	} else {
		s.jobs[job]--
	}
	return n > 0
}

// driver is River's, but leaves settled jobs alone.
type driver struct {
	*riverpgxv5.Driver
	settled *settled
}

func newDriver(pool *pgxpool.Pool, s *settled) driver { return driver{riverpgxv5.New(pool), s} }

// GetExecutor implements [riverdriver.Driver].
func (d driver) GetExecutor() riverdriver.Executor {
	return executor{d.Driver.GetExecutor(), d.settled}
}

type executor struct {
	riverdriver.Executor
	settled *settled
}

// JobSetStateIfRunningMany implements [riverdriver.Executor]. It may answer with
// fewer jobs than it is given, as those that were deleted are not in it either.
func (e executor) JobSetStateIfRunningMany(ctx context.Context, params *riverdriver.JobSetStateIfRunningManyParams) ([]*rivertype.JobRow, error) {
	open := 0
	for _, job := range params.ID {
		if !e.settled.take(job) {
			open++
		}
	}
	if open == 0 {
		return nil, nil
	}
	return e.Executor.JobSetStateIfRunningMany(ctx, params)
}
