package main

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/mailcrane/mailcrane/migrations"
)

func newMigrateCmd(environ []string) *cobra.Command {
	migrate := &cobra.Command{
		Use:   "migrate",
		Short: "Set up the schema in PostgreSQL",
		Long: `Set up the schema in PostgreSQL, from the files built into this program.

The stock migrate command of golang-migrate does the same with the folder
migrations of the source.`,
	}
	migrate.AddCommand(newMigrateUpCmd(environ), newMigrateDownCmd(environ), newMigrateStatusCmd(environ))
	return migrate
}

// databaseOnly loads the one setting that commands on the schema need.
func databaseOnly(cmd *cobra.Command, environ []string) (string, error) {
	c, err := load(cmd.Flags(), environ, choose("DATABASE_URL"))
	return c.DatabaseURL, errors.Join(err, c.require("DATABASE_URL"))
}

func newMigrateUpCmd(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the schema to the version that this program needs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			databaseURL, err := databaseOnly(cmd, environ)
			if err != nil {
				return err
			}
			if err := migrations.Up(cmd.Context(), databaseURL); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the schema is at version %d\n", migrations.Latest())
			return err
		},
	}
	addFlags(cmd.Flags(), choose("DATABASE_URL"))
	return cmd
}

func newMigrateDownCmd(environ []string) *cobra.Command {
	var steps int
	var all bool
	cmd := &cobra.Command{
		Use:   "down (--steps N | --all)",
		Short: "Take versions of the schema back, with the data in their tables",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			databaseURL, err := databaseOnly(cmd, environ)
			switch {
			case err != nil:
				return err
			case all == (steps > 0):
				return errors.New("say how much to take back: --steps N, or --all for the whole schema and all data in it")
			case all:
				steps = 0
			}
			return migrations.Down(cmd.Context(), databaseURL, steps)
		},
	}
	cmd.Flags().IntVar(&steps, "steps", 0, "number of versions to take back")
	cmd.Flags().BoolVar(&all, "all", false, "remove the whole schema and all data in it")
	addFlags(cmd.Flags(), choose("DATABASE_URL"))
	return cmd
}

func newMigrateStatusCmd(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say which version the schema has; exit 1 if this program needs another",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			databaseURL, err := databaseOnly(cmd, environ)
			if err != nil {
				return err
			}
			conn, err := pgx.Connect(cmd.Context(), databaseURL)
			if err != nil {
				return err
			}
			defer conn.Close(cmd.Context()) //nolint:errcheck // nothing was left unsaid
			if err := migrations.Check(cmd.Context(), conn); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the schema is at version %d, as this program needs it\n", migrations.Latest())
			return err
		},
	}
	addFlags(cmd.Flags(), choose("DATABASE_URL"))
	return cmd
}
