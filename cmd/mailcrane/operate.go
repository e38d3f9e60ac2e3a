package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/mailcrane/mailcrane/migrations"
	"github.com/mailcrane/mailcrane/outbox"
)

// onDatabase makes the RunE of a command that needs one connection.
func onDatabase(environ []string, do func(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		databaseURL, err := databaseOnly(cmd, environ)
		if err != nil {
			return err
		}
		conn, err := pgx.Connect(cmd.Context(), databaseURL)
		if err != nil {
			return err
		}
		defer conn.Close(cmd.Context()) //nolint:errcheck // all has been said
		if err := migrations.Check(cmd.Context(), conn); err != nil {
			return err
		}
		return do(cmd.Context(), cmd, conn)
	}
}

func scopeFlags(cmd *cobra.Command, s *outbox.Scope) {
	cmd.Flags().StringVar(&s.Tenant, "tenant", "", "of this tenant only")
	cmd.Flags().StringVar(&s.Template, "template", "", "with this template only")
	addFlags(cmd.Flags(), choose("DATABASE_URL"))
}

func newHoldCmd(environ []string) *cobra.Command {
	var scope outbox.Scope
	var reason string
	cmd := &cobra.Command{
		Use:   "hold [--tenant T] [--template T] --reason TEXT",
		Short: "Stop sending: everything, or the messages of a tenant or a template",
		Long: `Stop sending: everything, or the messages of a tenant or a template. Messages can
still be written; they wait for ` + "`mailcrane release`" + ` with the same flags.`,
		Args: cobra.NoArgs,
		RunE: onDatabase(environ, func(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
			return outbox.Hold(ctx, conn, scope, reason)
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "for those who wonder")
	scopeFlags(cmd, &scope)
	return cmd
}

func newReleaseCmd(environ []string) *cobra.Command {
	var scope outbox.Scope
	var message string
	cmd := &cobra.Command{
		Use:   "release [--tenant T] [--template T] | --message ID",
		Short: "Take a hold away, or send one held message again",
		Args:  cobra.NoArgs,
		RunE: onDatabase(environ, func(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
			if message != "" {
				return outbox.ReleaseMessage(ctx, conn, message)
			}
			requeued, err := outbox.Release(ctx, conn, scope)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "released; %d held messages are queued again\n", requeued)
			return err
		}),
	}
	cmd.Flags().StringVar(&message, "message", "", "id of a held message")
	scopeFlags(cmd, &scope)
	cmd.MarkFlagsMutuallyExclusive("message", "tenant")
	cmd.MarkFlagsMutuallyExclusive("message", "template")
	return cmd
}

func newMarkSentCmd(environ []string) *cobra.Command {
	var message string
	cmd := &cobra.Command{
		Use:   "mark-sent --message ID",
		Short: "Record that a held message did get through, so that it is not sent again",
		Args:  cobra.NoArgs,
		RunE: onDatabase(environ, func(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
			if message == "" {
				return errors.New("which message? --message ID")
			}
			return outbox.MarkSent(ctx, conn, message)
		}),
	}
	cmd.Flags().StringVar(&message, "message", "", "id of a held message")
	addFlags(cmd.Flags(), choose("DATABASE_URL"))
	return cmd
}

func newAdoptCmd(environ []string) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Make this copy of the database the one that is sent from",
		Long: `Make this copy of the database the one that is sent from, after it was restored
from a backup or copied on purpose. It prints what waits there and will be sent;
look at that with --dry-run first, because the original may have sent it long ago.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := load(cmd.Flags(), environ, choose("DATABASE_URL", "MAILCRANE_INSTALLATION"))
			if err != nil {
				return err
			}
			return onDatabase(environ, func(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
				if err := printWaiting(ctx, cmd, conn); err != nil || dryRun {
					return err
				}
				return outbox.Adopt(ctx, conn, c.Installation)
			})(cmd, args)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only print what would be sent")
	addFlags(cmd.Flags(), choose("DATABASE_URL", "MAILCRANE_INSTALLATION"))
	return cmd
}

func printWaiting(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
	waiting, err := outbox.ListWaiting(ctx, conn)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if len(waiting) == 0 {
		_, err := fmt.Fprintln(out, "nothing waits to be sent")
		return err
	}
	for _, w := range waiting {
		if _, err := fmt.Fprintf(out, "%d × %s of tenant %s, the oldest of %s\n", w.Messages, w.Template, w.Tenant, w.Oldest); err != nil {
			return err
		}
	}
	return nil
}
