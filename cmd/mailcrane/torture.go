//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mailcrane/mailcrane/cmd/mailcrane/torture"
)

func newTortureCmd(environ []string) *cobra.Command {
	t := tortureCmd{}
	var list bool
	cmd := &cobra.Command{
		Use:   "torture",
		Short: "Prove the promise on this machine: kill, stop, cut and fill what can be, and count the mails",
		Long: `Prove the promise on this machine: kill, stop, cut and fill what can be, and count
the mails. It starts a PostgreSQL of its own, daemons in processes of their own,
relays that write every mail to disk before they say 250, and writers that roll
back three transactions in ten. Nothing leaves the machine.

A committed message that is not sent is lost; a mail for something that was not
committed is a phantom; a second copy has to be explained by an attempt whose
outcome nobody knew. The exit code is 1 if any promise is broken; then logs and
journal are left to look at. The seed decides what is left to chance, and the
order; what the machine does in between it does not.

The outages are a tenth as long as those in the list. --scale 1 makes them whole,
and takes about an hour.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t.out, t.config.Progress = cmd.OutOrStdout(), cmd.ErrOrStderr()
			if list {
				return torture.List(t.out)
			}
			if !cmd.Flags().Changed("seed") {
				t.config.Seed = rand.Uint64N(1_000_000)
			}
			t.config.Environ = forChildren(environ)
			file, isFile := cmd.ErrOrStderr().(*os.File)
			t.config.Terminal = isFile && isTerminal(file)
			return t.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.BoolVar(&list, "list", false, "list the cases and what each allows")
	f.IntSliceVar(&t.config.Cases, "only", nil, "play only these cases, such as 5,7,12")
	f.Uint64Var(&t.config.Seed, "seed", 0, "repeat the choices of another run; default: a new one")
	f.IntVar(&t.config.Messages, "messages", 0, "commit so many messages in all, or some more; default 100 a case")
	f.DurationVar(&t.config.Duration, "duration", 0, "begin new rounds for so long; default: each case once")
	f.Float64Var(&t.config.Scale, "scale", 0.1, "of the lengths of outages")
	f.DurationVar(&t.config.Lease, "lease", 10*time.Second, "MAILCRANE_LEASE of the daemons")
	f.Float64Var(&t.config.Rate, "rate", 50, "messages written a second")
	f.StringVar(&t.config.DatabaseURL, "database-url", "", "use this empty database; cases that break PostgreSQL itself are left out then")
	f.StringVar(&t.config.Program, "daemon", "", "program to run as the daemons; default: this one")
	f.StringVar(&t.config.Dir, "dir", "", "empty folder for everything, which stays; default: a temporary one, which stays only after a failure")
	f.BoolVar(&t.json, "json", false, "print the report as JSON")
	return cmd
}

// forChildren is what a daemon needs of our environment: its settings are made
// for it.
func forChildren(environ []string) []string {
	var children []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GORACE"} {
		for _, entry := range environ {
			if len(entry) > len(name) && entry[:len(name)+1] == name+"=" {
				children = append(children, entry)
			}
		}
	}
	return children
}

// tortureCmd is one call of the command.
type tortureCmd struct {
	config torture.Config
	json   bool
	out    io.Writer
}

// errBroken makes the exit code 1, as any error does.
var errBroken = errors.New("promises were broken")

func (t *tortureCmd) run(ctx context.Context) error {
	if t.config.Program == "" {
		var err error
		if t.config.Program, err = os.Executable(); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(t.config.Progress, "seed %d\n", t.config.Seed); err != nil {
		return err
	}
	report, err := torture.Run(ctx, t.config)
	if len(report.Rounds) > 0 {
		err = errors.Join(err, t.print(report))
	}
	if err == nil && len(report.Broken()) > 0 {
		return errBroken
	}
	return err
}

func (t *tortureCmd) print(report torture.Report) error {
	if t.json {
		encoder := json.NewEncoder(t.out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(struct {
			torture.Report
			Total  torture.Ledger `json:"total"`
			Broken []string       `json:"broken"`
		}{report, report.Total(), report.Broken()})
	}
	table := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name any, l torture.Ledger, broken int) {
		verdict := "ok"
		if broken > 0 {
			verdict = "BROKEN"
		}
		_, _ = fmt.Fprintf(table, "%v\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t\n", name, l.Committed, l.RolledBack, l.Sent, l.Failed, // Flush tells
			l.Lost, l.Phantom, l.Copies, l.Unknown, l.Held, l.Recovery, verdict)
	}
	_, _ = fmt.Fprintln(table, "case\tcommitted\trolled back\tsent\tfailed\tlost\tphantom\tcopies\tunknown\theld\trecovery\t\t")
	for _, round := range report.Rounds {
		if round.Skipped == "" {
			row(round.Case, round.Ledger, len(round.Broken))
		}
	}
	row("all", report.Total(), len(report.Broken()))
	if err := table.Flush(); err != nil {
		return err
	}
	for _, broken := range report.Broken() {
		if _, err := fmt.Fprintln(t.out, "BROKEN:", broken); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(t.out, "seed %d, PostgreSQL %s, lease %s, scale %g\n", report.Seed, report.PostgreSQL, report.Lease, report.Scale)
	if report.Left != "" {
		_, err = fmt.Fprintln(t.out, "logs and journal:", report.Left)
	}
	return err
}
