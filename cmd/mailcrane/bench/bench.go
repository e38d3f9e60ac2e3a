//go:build unix

package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"
)

// Config says what to measure. Only Mode and Program are required; the zero
// value of everything else is the default.
type Config struct {
	Mode        Mode
	Program     string            // this program, for the processes of sink and producers
	Daemon      string            // the daemon's program; default: the same
	Environ     []string          // of all processes, besides their settings
	DatabaseURL string            // an empty database to use; default: a server of its own
	PostgreSQL  map[string]string // settings of our own server
	Runs        int               // default 1
	Messages    int               // to drain, or of the crowd; default 100,000
	Daemons     int               // default 1
	Producers   int               // writers at a time, in one process; default as the mode says
	Duration    time.Duration     // of the modes that go on for a time; default as the mode says
	Rate        float64           // messages a second, for latency and fairness; default as the mode says
	Writers     []int             // at a time, for enqueue, one after the other; default 1, 8, 64
	Waiting     int               // messages that wait, for backlog
	Finished    int               // messages that are finished, for backlog
	Hold        time.Duration     // keep a snapshot open so long, for backlog
	Serve       []string          // more arguments of the daemons
	Settings    []string          // more settings of the daemons, NAME=value
	PollOnly    bool              // latency: leave listening out
	Sink        SinkConfig
	Flush       bool      // the sink flushes mails to disk
	Profile     string    // folder for processor profiles of the daemons
	Progress    io.Writer // what goes on
}

// modes are what there is to run, and the defaults that differ.
func modes() map[Mode]mode {
	return map[Mode]mode{
		Drain:    {run: drain},
		Enqueue:  {run: enqueue, duration: 5 * time.Second},
		EndToEnd: {run: endToEnd, producers: 4, duration: 10 * time.Second},
		Latency:  {run: latency, producers: 16, duration: 20 * time.Second},
		Backlog:  {run: backlog},
		Idle:     {run: idle, duration: 30 * time.Second},
		Fairness: {run: fairness, producers: 4, duration: 20 * time.Second, rate: 10, replyDelay: 20 * time.Millisecond},
	}
}

type mode struct {
	run       func(ctx context.Context, c Config, report *Report) (Run, error)
	producers int
	duration  time.Duration
	rate      float64 // default 100

	replyDelay time.Duration
}

func (c Config) withDefaults() Config {
	m := modes()[c.Mode]
	c.Daemon = cmp.Or(c.Daemon, c.Program)
	c.Runs = cmp.Or(c.Runs, 1)
	c.Messages = cmp.Or(c.Messages, 100_000)
	c.Daemons = cmp.Or(c.Daemons, 1)
	c.Producers = cmp.Or(c.Producers, m.producers)
	c.Duration = cmp.Or(c.Duration, m.duration)
	c.Rate = cmp.Or(c.Rate, m.rate, 100)
	c.Sink.ReplyDelay = cmp.Or(c.Sink.ReplyDelay, m.replyDelay)
	if len(c.Writers) == 0 {
		c.Writers = []int{1, 8, 64}
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	return c
}

func (c Config) check() error {
	if modes()[c.Mode].run == nil {
		return fmt.Errorf("there is nothing to measure that is called %q", c.Mode)
	}
	if min(c.Runs, c.Messages, c.Daemons, c.Producers, c.Waiting, c.Finished) < 0 || c.Rate < 0 ||
		min(c.Duration, c.Hold, c.Sink.ReplyDelay, c.Sink.RTT) < 0 {
		return errors.New("numbers and times must not be negative")
	}
	if len(c.Writers) > 0 && slices.Min(c.Writers) < 1 {
		return errors.New("there must be a writer")
	}
	if c.DatabaseURL != "" && len(c.PostgreSQL) > 0 {
		return errors.New("settings of PostgreSQL are for a server of our own, and a database was given")
	}
	return nil
}

// Bench measures. What went wrong with the messages is in the report; the error
// is for what kept it from being made.
func Bench(ctx context.Context, config Config) (report Report, err error) {
	if err := config.check(); err != nil {
		return Report{}, err
	}
	config = config.withDefaults()
	report = Report{
		Mode: config.Mode, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU(),
		Settings: config.settings(),
	}
	defer func() { report.Summary = summarize(report.Runs) }() // of as many as there are
	for n := range config.Runs {
		if config.Runs > 1 {
			config.say("run %d of %d", n+1, config.Runs)
		}
		run, err := modes()[config.Mode].run(ctx, config.forRun(n), &report)
		if err != nil {
			return report, err
		}
		run.Failures, run.Remarks = append([]string{}, run.Failures...), append([]string{}, run.Remarks...) // no null for programs
		report.Runs = append(report.Runs, run)
	}
	return report, nil
}
