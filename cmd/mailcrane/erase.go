package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/mailcrane/mailcrane/outbox"
)

func newEraseCmd(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "erase ADDRESS",
		Short: "Make the database forget an address",
		Long: `Make the database forget an address. What waits to be sent to it is withdrawn. What
was done stays on record, and nobody can tell for whom: in every table the address
is replaced by a hash of it. That needs MAILCRANE_SECRET, the one of the daemons: they
find its suppressions under the hash, and obey them. Without the secret, the address
is replaced by one made at random, and its suppressions go too. Backups are out of
reach.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := load(cmd.Flags(), environ, choose("DATABASE_URL", "MAILCRANE_SECRET"))
			if err != nil {
				return err
			}
			return onDatabase(environ, func(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
				erased, err := outbox.Erase(ctx, conn, args[0], []byte(c.Secret))
				if err != nil {
					return err
				}
				for _, e := range erased {
					if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %d\n", e.What, e.Rows); err != nil {
						return err
					}
				}
				return nil
			})(cmd, args)
		},
	}
	addFlags(cmd.Flags(), choose("DATABASE_URL"))
	return cmd
}
