//go:build unix

package torture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// Config says what to run. Only Program is required.
type Config struct {
	Program     string        // the daemon's program
	Environ     []string      // of the daemons, besides their settings
	DatabaseURL string        // an empty database to use; default: a server of its own
	Dir         string        // what is left to look at after a failure; default: a new temporary folder
	Seed        uint64        // of all that is left to chance
	Cases       []int         // numbers of those to run; default: all
	Messages    int           // committed in all; default 100 a case
	Duration    time.Duration // begin new rounds for so long; default: each case once
	Scale       float64       // of the lengths of outages; default 0.1
	Lease       time.Duration // of the daemons; default 10 s
	Rate        float64       // letters a second; default 50
	Progress    io.Writer     // one line a round
	Terminal    bool          // Progress is one: a line that changes shows what goes on
}

func (c Config) withDefaults() Config {
	c.Messages = cmp.Or(c.Messages, 100*len(c.chosen()))
	c.Scale = cmp.Or(c.Scale, 0.1)
	c.Lease = cmp.Or(c.Lease, 10*time.Second)
	c.Rate = cmp.Or(c.Rate, 50)
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	return c
}

// chosen are the cases to run.
func (c Config) chosen() []scenario {
	if len(c.Cases) == 0 {
		return scenarios()
	}
	var chosen []scenario
	for _, s := range scenarios() {
		for _, number := range c.Cases {
			if s.number == number {
				chosen = append(chosen, s)
			}
		}
	}
	return chosen
}

func (c Config) check() error {
	var problems []error
	for _, number := range c.Cases {
		if len(Config{Cases: []int{number}}.chosen()) == 0 {
			problems = append(problems, fmt.Errorf("there is no case %d: --list shows them", number))
		}
	}
	if c.Lease < 2*time.Second || c.Lease > time.Minute {
		problems = append(problems, errors.New("the lease must be 2s to 1m"))
	}
	if c.Scale <= 0 || c.Scale > 1 {
		problems = append(problems, errors.New("the scale must be above 0, and 1 at most"))
	}
	if c.Messages < 0 || c.Duration < 0 || c.Rate <= 0 {
		problems = append(problems, errors.New("messages, duration and rate must not be negative"))
	}
	return errors.Join(problems...)
}

// Run plays every case at least once, in an order that the seed decides, and
// gives the account. Broken promises are in the report; the error is for what
// kept it from being made.
func Run(ctx context.Context, config Config) (report Report, err error) {
	config = config.withDefaults()
	if err := config.check(); err != nil {
		return Report{}, err
	}
	dir := config.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "mailcrane-torture-"); err != nil {
			return Report{}, err
		}
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // PostgreSQL runs as another user
			return Report{}, err
		}
	}
	s, err := open(ctx, config, dir)
	if err != nil {
		return Report{}, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		err = errors.Join(err, s.close(context.WithoutCancel(ctx)))
		if (err == nil || ctx.Err() != nil) && len(report.Broken()) == 0 && config.Dir == "" {
			err = errors.Join(err, os.RemoveAll(dir))
			return
		}
		report.Left = dir
		if err != nil {
			err = fmt.Errorf("%w (logs: %s)", err, dir)
		}
	}()
	return s.perform(ctx)
}

// perform deals the cases until all had their turn and the time is over.
func (s *stage) perform(ctx context.Context) (Report, error) {
	report := Report{Seed: s.Seed, Lease: s.Lease.String(), Scale: s.Scale, PostgreSQL: s.version, Findings: []outbox.Finding{}}
	deck := s.chosen()
	random := rand.New(rand.NewPCG(s.Seed, 0))
	each := max(1, s.Messages/len(deck))
	deadline := time.Now().Add(s.Duration)
	for pass := 0; pass == 0 || time.Now().Before(deadline); pass++ {
		random.Shuffle(len(deck), func(i, k int) { deck[i], deck[k] = deck[k], deck[i] })
		for _, c := range deck {
			if pass > 0 && time.Now().After(deadline) {
				break
			}
			round, err := s.play(ctx, c, each)
			if err != nil {
				return report, fmt.Errorf("case %d: %w", c.number, err)
			}
			report.Rounds = append(report.Rounds, round)
			if _, err := fmt.Fprintln(s.Progress, round); err != nil {
				return report, err
			}
		}
	}
	findings, err := outbox.Audit(ctx, s.pool, 0)
	if err != nil {
		return report, err
	}
	report.Findings = append(report.Findings, findings...)
	return report, nil
}
