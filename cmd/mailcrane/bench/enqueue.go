//go:build unix

package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// enqueue measures how fast messages are written while nobody sends them, and
// compares that with the least that an outbox can do.
func enqueue(ctx context.Context, c Config, report *Report) (run Run, err error) {
	s, err := open(ctx, c, report)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	if err := createBare(ctx, s.pool); err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, dropBare(context.WithoutCancel(ctx), s.pool)) }()
	most := slices.Max(c.Writers)
	ways := make([]way, 0, len(c.Writers)+2)
	for _, n := range c.Writers {
		ways = append(ways, way{fmt.Sprintf("invite_%d", n), fmt.Sprintf("Invite, %d at a time", n), inviteOne, n})
	}
	many := min(manyWriters, most)
	ways = append(ways,
		way{"invite_many", fmt.Sprintf("InviteMany of %d, %d at a time", manyAtOnce, many), inviteMany, many},
		way{"bare", fmt.Sprintf("two bare rows, %d at a time", most), bareInsert, most},
	)
	rates := map[string]float64{}
	for _, w := range ways {
		s.say("%s, for %s", w.label, c.Duration)
		if rates[w.name], err = s.write(ctx, &run, w); err != nil {
			return run, err
		}
	}
	if bare := rates["bare"]; bare > 0 {
		run.add(Figure{"ratio", fmt.Sprintf("Invite to bare rows, %d at a time", most), "", rates[fmt.Sprintf("invite_%d", most)] / bare})
	}
	return run, s.verifyWritten(ctx, &run)
}

// way is one way to write.
type way struct {
	name, label string
	kind        kind
	writers     int
}

const manyWriters = 8

// write measures one way, and gives its rate.
func (s *stage) write(ctx context.Context, run *Run, w way) (float64, error) {
	if err := s.checkpoint(ctx); err != nil {
		return 0, err
	}
	before := s.pids().take()
	written := s.written
	done, err := s.produce(ctx, order{Kind: w.kind, Writers: w.writers, Duration: s.Duration, First: s.written + 1})
	if err != nil {
		return 0, err
	}
	if w.kind == bareInsert { // into other tables
		s.written = written
	}
	after := s.pids().take()
	rate := float64(done.Messages) / done.seconds()
	run.add(Figure{w.name + "_per_s", w.label, "1/s", rate})
	run.add(done.Took.figures(w.name, w.label)...)
	if used := after.since(before); used.known && s.postgres != 0 {
		run.add(Figure{w.name + "_postgres_cpu_per_1000", w.label + ", processor time of PostgreSQL for 1,000 messages", "s", per(used.postgres.Seconds(), done.Messages)})
	}
	s.foreign(run, before, after)
	return rate, nil
}

// verifyWritten counts what is in the queue.
func (s *stage) verifyWritten(ctx context.Context, run *Run) error {
	var queued, others int
	err := s.pool.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE status = 'queued'), count(*) FILTER (WHERE status <> 'queued')
		FROM mailcrane.message`).Scan(&queued, &others)
	if err != nil {
		return err
	}
	if queued != s.written || others > 0 {
		run.fail("%d messages were written; %d are queued, and %d are something else", s.written, queued, others)
	}
	return s.audit(ctx, run)
}
