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
is replaced by one made at random. Its suppression goes too. Backups are out of
reach.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onDatabase(environ, func(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
				erased, err := outbox.Erase(ctx, conn, args[0])
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
