//go:build unix

package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox"
)

// round is one case while it is played.
type round struct {
	*stage
	scenario scenario
	random   *rand.Rand
	writers  *writers

	mu       sync.Mutex
	recovery time.Duration
	undo     []func()
	broken   []string
	held     int
	stuck    bool // there is no point in going on
	brief    bool // outages are
}

// play lets writers write while the case goes on, waits until all is settled,
// and makes the account.
func (s *stage) play(ctx context.Context, c scenario, letters int) (Round, error) {
	began := time.Now()
	result := Round{Case: c.number, Title: c.title, Allowed: c.copies.String(), Within: seconds(c.within), Broken: []string{}}
	if c.ownServer && s.server == nil {
		result.Skipped = "it needs a server of its own, not one that was given"
		return result, nil
	}
	if c.smallDisk {
		return s.playOnSmallDisk(ctx, c, letters)
	}
	s.rounds++
	r := &round{stage: s, scenario: c, random: rand.New(rand.NewPCG(s.Seed, uint64(s.rounds)))} //nolint:gosec // a count
	r.writers = &writers{
		stage: s, habits: c.habits, prefix: fmt.Sprintf("r%03d-c%02d-", s.rounds, c.number),
		random: rand.New(rand.NewPCG(s.Seed, uint64(s.rounds)<<32)), //nolint:gosec // a count
	}
	if err := r.configure(ctx); err != nil {
		return result, err
	}
	if err := r.perform(ctx, letters); err != nil {
		return result, err
	}
	ledger, err := r.account(ctx)
	if err != nil {
		return result, err
	}
	result.Ledger, result.Broken = ledger, append(result.Broken, r.broken...)
	result.judge(c)
	findings, err := outbox.Audit(ctx, s.pool, 0)
	if err != nil {
		return result, err
	}
	for _, f := range findings {
		if f.Severity == outbox.Critical {
			result.Broken = append(result.Broken, fmt.Sprintf("audit: %s: %s", f.Check, f.Detail))
		}
	}
	result.Took = seconds(time.Since(began))
	return result, r.unconfigure(ctx)
}

// configure gives the daemons the settings of the case.
func (r *round) configure(ctx context.Context) error {
	if len(r.scenario.environ) == 0 && r.scenario.lanes == 0 {
		return nil
	}
	for i, lane := range r.lanes {
		if err := lane.stop(ctx); err != nil {
			return err
		}
		if r.scenario.lanes == 0 || i < r.scenario.lanes {
			lane.start(r.scenario.environ...)
			if err := lane.ready(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *round) unconfigure(ctx context.Context) error {
	if len(r.scenario.environ) == 0 && r.scenario.lanes == 0 {
		return nil
	}
	for _, lane := range r.lanes {
		if err := lane.stop(ctx); err != nil {
			return err
		}
		lane.start()
	}
	return r.allReady(ctx)
}

// perform plays the case to the end of the last recovery.
func (r *round) perform(ctx context.Context, letters int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	over := make(chan struct{})
	if r.Terminal {
		watching, end := context.WithCancel(ctx)
		defer end()
		go r.watch(watching)
	}
	written := make(chan error, 1)
	go func() { written <- r.writers.write(ctx, max(letters, r.scenario.least), over) }()
	err := r.scenario.run(ctx, r)
	close(over)
	if err != nil {
		r.breaks("%v", err)
	}
	for _, undo := range r.undo {
		undo()
	}
	if err := <-written; err != nil || r.stuck {
		return err
	}
	if err := r.settle(ctx); err != nil {
		r.breaks("%v", err)
	}
	return ctx.Err()
}

// watch shows what goes on, each second.
func (r *round) watch(ctx context.Context) {
	before := r.sink.count()
	for began := time.Now(); r.wait(ctx, time.Second) == nil; {
		_, _ = fmt.Fprintf(r.Progress, "\rcase %2d  %s: %d letters, %d mails, %s\x1b[K\r", // nobody reads it twice
			r.scenario.number, r.scenario.title, r.writers.count(), r.sink.count()-before, time.Since(began).Round(time.Second))
	}
}

// settle waits for the rest, and decides what only a human can.
func (r *round) settle(ctx context.Context) error {
	if err := r.recovered(ctx); err != nil {
		return err
	}
	held, err := r.decideHeld(ctx)
	if err != nil || held == 0 {
		return err
	}
	r.held = held
	return r.recovered(ctx)
}

// breaks notes a promise that is broken.
func (r *round) breaks(format string, values ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = append(r.broken, fmt.Sprintf(format, values...))
}

// later undoes something after the case, for the second time perhaps.
func (r *round) later(undo func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.undo = append(r.undo, undo)
}

// outage is the length of one that would take so long in the world outside. It
// lasts longer than the lease if it would there.
func (r *round) outage(full time.Duration) time.Duration {
	scale := r.Scale
	if r.brief {
		scale = min(scale, 0.05)
	}
	scaled := time.Duration(float64(full) * scale)
	if full > 10*time.Second {
		scaled = max(scaled, r.Lease*3/2)
	}
	return scaled
}

// wait lets time pass.
func (r *round) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// recovered waits until all that has been written up to now is settled, and notes
// how long that took. What does not come to an end is a broken promise.
func (r *round) recovered(ctx context.Context) error {
	began := time.Now()
	left := 0
	var mark time.Time
	err := until(ctx, r.scenario.within+30*time.Second, "all is settled", func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if mark.IsZero() {
			if r.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&mark) != nil {
				return false, nil // the database is on its way
			}
		}
		err := r.pool.QueryRow(ctx, `
			SELECT count(*)
			FROM mailcrane.message
			WHERE finished_at IS NULL AND status = 'queued' AND created_at <= $1`, mark).Scan(&left)
		return err == nil && left == 0, nil
	})
	r.mu.Lock()
	r.recovery = max(r.recovery, time.Since(began))
	r.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.stuck = true
		return fmt.Errorf("%d messages are stuck", left)
	}
	return errors.Join(err, ctx.Err())
}

// stored is what the database says about one recipient.
type stored struct {
	Rows    int
	Status  outbox.Status // of the latest message
	Unknown int           // attempts
}

// account compares what the writers know, what the database says and what the
// sink has got.
func (r *round) account(ctx context.Context) (Ledger, error) {
	rows, err := r.pool.Query(ctx, `
		SELECT m.recipient, count(*)::integer AS rows, max(m.status) AS status,
		       sum((SELECT count(*) FROM mailcrane.attempt AS a WHERE a.message_id = m.id AND a.was_unknown))::integer AS unknown
		FROM mailcrane.message AS m
		WHERE m.recipient LIKE '%' || $1 || '%'
		GROUP BY m.recipient`, r.writers.prefix)
	if err != nil {
		return Ledger{}, err
	}
	type row struct {
		Recipient string
		stored
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	if err != nil {
		return Ledger{}, err
	}
	known := map[string]stored{}
	for _, row := range list {
		known[row.Recipient] = row.stored
	}
	l := Ledger{Held: r.held, Recovery: seconds(r.recovery)}
	for _, letter := range r.writers.letters {
		copies := r.sink.of(letter.recipient)
		l.enter(*letter, known[letter.recipient], copies)
		if letter.hold && len(copies) > 1 {
			r.breaks("%s was sent %d times despite the policy hold", letter.recipient, len(copies))
		}
	}
	return l, nil
}

// enter adds one letter to the account.
func (l *Ledger) enter(letter letter, s stored, copies []copied) {
	if letter.fate == doubtful && s.Rows > 0 {
		letter.fate = committed
	}
	l.Unknown += s.Unknown
	for _, c := range copies {
		if !c.Whole || c.Hash != copies[0].Hash {
			l.Damaged++
		}
	}
	if letter.fate != committed {
		l.RolledBack++
		l.Phantom += max(s.Rows, len(copies))
		return
	}
	l.Committed++
	l.Phantom += max(0, s.Rows-1)
	extra := max(0, len(copies)-1)
	l.Copies += extra
	l.Unaccounted += max(0, extra-s.Unknown)
	switch {
	case letter.fails && s.Status == outbox.StatusFailed && len(copies) == 0:
		l.Failed++
	case s.Status == outbox.StatusSent && len(copies) > 0:
		l.Sent++
	default:
		l.Lost++
	}
}
