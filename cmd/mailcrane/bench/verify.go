//go:build unix

package bench

import (
	"context"
	"slices"

	"github.com/mailcrane/mailcrane/outbox"
)

// expected is what the database should hold in the end.
type expected struct {
	sent    int
	before  int // of these, sent before we looked
	waiting int
}

// verify compares what the database says with what the sink has got, and asks the
// audit.
func (s *stage) verify(ctx context.Context, run *Run, want expected) error {
	count, err := s.sink.count(ctx)
	if err != nil {
		return err
	}
	var sent, waiting, others, open int
	err = s.pool.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE m.status = 'sent'), count(*) FILTER (WHERE m.status = 'queued'),
		       count(*) FILTER (WHERE m.status NOT IN ('sent', 'queued')),
		       (SELECT count(*) FROM mailcrane.attempt WHERE outcome IS NULL)
		FROM mailcrane.message AS m`).Scan(&sent, &waiting, &others, &open)
	if err != nil {
		return err
	}
	if sent != want.sent || waiting != want.waiting || others > 0 || open > 0 {
		run.fail("%d messages should be sent, and %d wait; %d are sent, %d wait, %d are something else, and %d attempts are open",
			want.sent, want.waiting, sent, waiting, others, open)
	}
	run.compare(count, want.sent-want.before)
	return s.audit(ctx, run)
}

// audit reports what it finds. That messages wait for long is no finding where
// they were made to wait.
func (s *stage) audit(ctx context.Context, run *Run) error {
	findings, err := outbox.Audit(ctx, s.pool, 0)
	if err != nil {
		return err
	}
	if s.Mode == Backlog || s.Mode == Enqueue || s.Mode == Fairness {
		findings = slices.DeleteFunc(findings, func(f outbox.Finding) bool { return f.Check == "overdue" })
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
