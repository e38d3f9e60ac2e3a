//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mailcrane/mailcrane/cmd/mailcrane/bench"
)

func newBenchCmd(environ []string) *cobra.Command {
	b := &benchCmd{environ: environ}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure on this machine how fast messages are written and sent, and what that costs",
		Long: `Measure on this machine how fast messages are written and sent, and what that
costs. It starts a PostgreSQL of its own that flushes to disk, daemons, producers,
and a relay that counts mails; all that is in processes of its own, and nothing
leaves the machine. A run in which a mail is lost or comes twice, or in which the
audit finds something, has failed: the exit code is 1.

Everything shares the processors of this machine, the relay too. The share that
other programs took of them is measured and printed: above 10 % of it, the figures
say little. TMPDIR says on which disk the database is.`,
	}
	b.common(cmd.PersistentFlags())
	cmd.AddCommand(b.modes()...)
	cmd.AddCommand(newBenchSinkCmd(), newBenchProduceCmd())
	return cmd
}

// benchCmd is one call of the command.
type benchCmd struct {
	environ                     []string
	config                      bench.Config
	json                        bool
	workers, senders, producers int
	pollOnly                    bool
	set                         []string
	postgres                    []string
	out                         io.Writer
}

func (b *benchCmd) common(f *pflag.FlagSet) {
	f.StringVar(&b.config.DatabaseURL, "database-url", "", "use this empty database, and empty it at the end; default: a server of its own")
	f.IntVar(&b.config.Runs, "runs", 1, "repeat it so often, and give the medians")
	f.BoolVar(&b.json, "json", false, "print everything as JSON")
	f.IntVar(&b.config.Daemons, "daemons", 1, "daemons at a time")
	f.IntVar(&b.workers, "workers", 0, "MAILCRANE_WORKERS of the daemons; default: theirs")
	f.IntVar(&b.senders, "connections", 0, "MAILCRANE_SMTP_CONNECTIONS of the daemons; default: theirs")
	f.BoolVar(&b.pollOnly, "poll-only", false, "MAILCRANE_POLL_ONLY of the daemons")
	f.StringArrayVar(&b.set, "set", nil, "another setting of the daemons, such as MAILCRANE_SMTP_MAX_MESSAGES=1000")
	f.StringArrayVar(&b.postgres, "postgres", nil, "a setting of our own PostgreSQL, such as shared_buffers=1GB")
	f.DurationVar(&b.config.Sink.ReplyDelay, "reply-delay", 0, "the relay waits so long before every reply")
	f.DurationVar(&b.config.Sink.RTT, "rtt", 0, "the relay is so far away: everything reaches it that much later")
	f.BoolVar(&b.config.Flush, "fsync", false, "the relay flushes mails to disk before it accepts them")
	f.StringVar(&b.config.Profile, "profile", "", "folder for processor profiles of the daemons")
	f.StringVar(&b.config.Daemon, "daemon", "", "program to run as the daemons; default: this one")
	f.IntVar(&b.config.Sink.Lose, "lose", 0, "the relay forgets the mail with this number, to see that the run fails")
	f.IntVar(&b.config.Sink.Repeat, "repeat", 0, "the relay counts the mail with this number twice, to see that the run fails")
	for _, name := range []string{"lose", "repeat"} {
		_ = f.MarkHidden(name) // fails only if there is no such flag
	}
}

// modes are the commands for what can be measured.
func (b *benchCmd) modes() []*cobra.Command {
	c := &b.config
	drain := b.mode(bench.Drain, 0, "A full queue and nothing else to do: mails a second, and what they cost")
	enqueue := b.mode(bench.Enqueue, 5*time.Second, "Writing without a daemon: invitations a second, next to two bare rows each")
	e2e := b.mode(bench.EndToEnd, 10*time.Second, "Writing as fast as it goes, and sending at the same time")
	latency := b.mode(bench.Latency, 20*time.Second, "From the commit to the relay's answer at a steady rate, listening, polling, and over HTTP")
	backlog := b.mode(bench.Backlog, 0, "A drain among millions of messages that wait or are finished, next to a plain one")
	fairness := b.mode(bench.Fairness, 20*time.Second, "How long single messages wait while another tenant has filled the queue")
	idle := b.mode(bench.Idle, 30*time.Second, "What a daemon costs that has nothing to do")
	fairness.Flags().IntVar(&c.Messages, "messages", 100_000, "of the other tenant")
	fairness.Flags().Float64Var(&c.Rate, "rate", 0, "single messages a second; default 10")
	for _, cmd := range []*cobra.Command{drain, backlog} {
		cmd.Flags().IntVar(&c.Messages, "messages", 100_000, "to be sent")
	}
	enqueue.Flags().IntSliceVar(&c.Writers, "producers", []int{1, 8, 64}, "writers at a time, one number after the other")
	e2e.Flags().IntVar(&b.producers, "producers", 0, "writers at a time, in one process; default 4")
	latency.Flags().IntVar(&b.producers, "producers", 0, "writers at a time, at most; default 16")
	latency.Flags().Float64Var(&c.Rate, "rate", 0, "messages a second; default 100")
	backlog.Flags().IntVar(&c.Waiting, "waiting", 1_000_000, "messages that go on waiting")
	backlog.Flags().IntVar(&c.Finished, "finished", 2_000_000, "messages that are finished, with their attempts and jobs")
	backlog.Flags().DurationVar(&c.Hold, "hold-snapshot", 0, "keep a transaction with a snapshot open so long meanwhile")
	return []*cobra.Command{drain, enqueue, e2e, latency, backlog, fairness, idle}
}

// mode is the command for one of them. Those that take as long as they are told
// have a usual time.
func (b *benchCmd) mode(mode bench.Mode, usual time.Duration, short string) *cobra.Command {
	var duration time.Duration
	cmd := &cobra.Command{
		Use:   string(mode),
		Short: short,
		Long:  short + ".\n\n" + longer(mode),
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := &b.config
			b.out, c.Mode, c.Duration, c.Producers, c.Progress = cmd.OutOrStdout(), mode, duration, b.producers, cmd.ErrOrStderr()
			return b.run(cmd.Context())
		},
	}
	if usual > 0 {
		cmd.Flags().DurationVar(&duration, "duration", usual, "how long, each part")
	}
	return cmd
}

// longer is how it is measured, and what the words in the table mean.
func longer(mode bench.Mode) string {
	return map[bench.Mode]string{
		bench.Drain: `The queue is filled by the thousand; then the database writes a checkpoint, and
the daemons start. The rate is from the first mail at the relay to the last.
Processor time and transactions are those from the start of the daemons until
the database says that all is sent. Statistics of the tables are not taken by
hand.`,
		bench.Enqueue: `Each writer has a connection, and begins the next transaction when the last is
committed. The bare rows are one row for the application and one for an outbox,
in tables with nothing but a primary key, in one statement: what remains of an
outbox if it checks and promises nothing.`,
		bench.EndToEnd: `Each producer begins the next transaction when the last is committed.`,
		bench.Latency: `A message is due at a fixed moment, whether those before are done or not. The
commit is measured from that moment, delivery from the commit to the moment
before the relay says 250, and both together. It is done three times: with
daemons that listen, with daemons that poll, and with messages that come over
HTTP. --poll-only leaves the first out. --reply-delay shows what a slow relay
changes. In the end two bare rows are committed at the same rate, without a daemon:
what the machine and its disk make of any write at that hour.`,
		bench.Backlog: `First the plain drain, then one in another database, where messages wait and are
finished by the million. Those are put there by SQL, and the daemons stop when
--messages of those that wait are sent. --hold-snapshot keeps a transaction open
meanwhile, as a long report does, so that nothing can be cleaned up.`,
		bench.Fairness: `One tenant fills the queue while no daemon runs: first with batches, then with
single messages. Then the daemons start, and single messages of another tenant are
written at a steady rate, from the first moment on. It is done without the crowd,
too. The relay waits 20 ms before every reply, unless --reply-delay says otherwise,
so that the queue stays full meanwhile. What waits at the end is not sent.`,
		bench.Idle: `The daemons get three seconds to come to rest, and are watched after that.`,
	}[mode]
}

// errFailed makes the exit code 1, as any error does.
var errFailed = errors.New("the run has failed")

func (b *benchCmd) run(ctx context.Context) (err error) {
	c := &b.config
	if c.Program, err = os.Executable(); err != nil {
		return err
	}
	c.Environ = forChildren(b.environ)
	c.Settings = b.set
	if c.PostgreSQL, err = pairs(b.postgres); err != nil {
		return err
	}
	for name, n := range map[string]int{"--workers": b.workers, "--smtp-connections": b.senders} {
		if n > 0 {
			c.Serve = append(c.Serve, name, strconv.Itoa(n))
		}
	}
	if c.PollOnly = b.pollOnly; c.PollOnly && c.Mode != bench.Latency { // which does both in turn
		c.Serve = append(c.Serve, "--poll-only=true")
	}
	if c.Profile != "" {
		if c.Profile, err = filepath.Abs(c.Profile); err != nil {
			return err
		}
	}
	report, err := bench.Bench(ctx, *c)
	if ctx.Err() != nil {
		return errors.New("stopped")
	}
	report.Version = programVersion()
	if len(report.Runs) > 0 {
		err = errors.Join(err, b.print(report))
	}
	if err == nil && report.Failed() {
		return errFailed
	}
	return err
}

func pairs(given []string) (map[string]string, error) {
	found := map[string]string{}
	for _, pair := range given {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not of the form NAME=value", pair)
		}
		found[name] = value
	}
	return found, nil
}

func (b *benchCmd) print(report bench.Report) error {
	if !b.json {
		return report.Print(b.out)
	}
	encoder := json.NewEncoder(b.out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(report)
}

// newBenchSinkCmd is the process of the relay.
func newBenchSinkCmd() *cobra.Command {
	var c bench.SinkConfig
	cmd := &cobra.Command{
		Use:    "sink",
		Short:  "Be the relay of a benchmark",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.ServeSink(cmd.Context(), c, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.DurationVar(&c.ReplyDelay, "reply-delay", 0, "wait before every reply")
	f.DurationVar(&c.RTT, "rtt", 0, "look at everything so much later")
	f.StringVar(&c.Journal, "journal", "", "flush mails to this file")
	f.IntVar(&c.Lose, "lose", 0, "do not count this mail")
	f.IntVar(&c.Repeat, "repeat", 0, "count this mail twice")
	return cmd
}

// newBenchProduceCmd is the process of the producers.
func newBenchProduceCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "produce",
		Short:  "Write the messages of a benchmark",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.Produce(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
