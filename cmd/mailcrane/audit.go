package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/mailcrane/mailcrane/outbox"
)

// errCritical makes the exit code 2: the promise is broken, which is another
// thing than an audit that could not be made.
var errCritical = errors.New("the audit found something critical")

func newAuditCmd(environ []string) *cobra.Command {
	a := audit{}
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Check the promise: nothing lost, nothing doubled unseen",
		Long: `Check the promise: nothing lost, nothing doubled unseen. It looks at everything
unfinished and at what happened within --since, like SELECT * FROM mailcrane.audit().

The exit code is 2 if there is a critical finding, 1 if the audit could not be made.`,
		Args: cobra.NoArgs,
		RunE: onDatabase(environ, func(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
			a.out = cmd.OutOrStdout()
			if a.watch <= 0 {
				return a.once(ctx, conn)
			}
			return a.forever(ctx, conn)
		}),
	}
	cmd.Flags().BoolVar(&a.json, "json", false, "print one JSON object a finding")
	cmd.Flags().DurationVar(&a.since, "since", 24*time.Hour, "look back so far")
	cmd.Flags().BoolVar(&a.repair, "repair", false, "first put right what can be: missing and superfluous jobs, messages behind their ledger")
	cmd.Flags().DurationVar(&a.watch, "watch", 0, "repeat at this interval until stopped")
	cmd.Flags().Lookup("watch").NoOptDefVal = "10s"
	addFlags(cmd.Flags(), choose("DATABASE_URL"))
	return cmd
}

// audit is one call of the command.
type audit struct {
	json, repair bool
	since, watch time.Duration
	out          io.Writer
}

// forever repeats until ctx ends, which is no error, and remembers the worst.
func (a audit) forever(ctx context.Context, conn *pgx.Conn) error {
	ticker := time.NewTicker(a.watch)
	defer ticker.Stop()
	var worst error
	for {
		err := a.once(ctx, conn)
		switch {
		case ctx.Err() != nil:
			return worst
		case errors.Is(err, errCritical):
			worst = err
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return worst
		case <-ticker.C:
		}
	}
}

func (a audit) once(ctx context.Context, conn *pgx.Conn) error {
	if a.repair {
		repaired, err := outbox.Repair(ctx, conn)
		if err != nil {
			return err
		}
		for _, r := range repaired {
			if err := a.print(r, "repaired\t%s\t%d rows\n", r.Check, r.Rows); err != nil {
				return err
			}
		}
	}
	findings, err := outbox.Audit(ctx, conn, a.since)
	if err != nil {
		return err
	}
	return a.report(findings)
}

func (a audit) report(findings []outbox.Finding) error {
	table := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	a.out = table
	critical := false
	for _, f := range findings {
		critical = critical || f.Severity == outbox.Critical
		if err := a.print(f, "%s\t%s\t%s\t%s\t%s\n", f.Severity, f.Check, orDash(f.MessageID), orDash(f.JobID), f.Detail); err != nil {
			return err
		}
	}
	if len(findings) == 0 && !a.json {
		if _, err := fmt.Fprintf(table, "%s  all is well\n", time.Now().Format(time.TimeOnly)); err != nil {
			return err
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if critical {
		return errCritical
	}
	return nil
}

// print writes one row, as text or as JSON.
func (a audit) print(row any, format string, values ...any) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(row)
	}
	_, err := fmt.Fprintf(a.out, format, values...)
	return err
}

func orDash[T any](v *T) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprint(*v)
}
