package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/mailcrane/mailcrane/outbox"
)

func newKeysCmd(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make, list and revoke keys to the HTTP API",
		Long: `Make, list and revoke keys to the HTTP API. A key is for one tenant, and sees nothing
else. The mail of a test key is handed to no relay.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newKeysCreateCmd(environ), newKeysListCmd(environ), newKeysRevokeCmd(environ))
	return cmd
}

func newKeysCreateCmd(environ []string) *cobra.Command {
	var wanted outbox.NewAPIKey
	var expiresIn time.Duration
	cmd := &cobra.Command{
		Use:   "create --name TEXT [--tenant T] [--test] [--scopes S,…] [--expires-in D]",
		Short: "Make a key and print it",
		Long: `Make a key and print it. Nobody can look it up afterwards. Two keys of a tenant can
have the same name at a time: make the new one, use it, revoke the old one.`,
		Args: cobra.NoArgs,
		RunE: onDatabase(environ, func(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
			if expiresIn < 0 {
				return errors.New("--expires-in must not be negative")
			}
			if expiresIn > 0 {
				wanted.ExpiresAt = time.Now().Add(expiresIn)
			}
			_, key, err := outbox.CreateAPIKey(ctx, conn, wanted)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), key)
			return err
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&wanted.Name, "name", "", "for people, such as what uses it")
	flags.StringVar(&wanted.Tenant, "tenant", "", "whose rows it can see and write (default \"default\")")
	flags.BoolVar(&wanted.Test, "test", false, "a key whose mail is handed to no relay")
	flags.StringSliceVar(&wanted.Scopes, "scopes", nil, "what it allows, such as invitations:write (default all but those on keys)")
	flags.DurationVar(&expiresIn, "expires-in", 0, "how long it is valid, such as 2160h (default for ever)")
	addFlags(flags, choose("DATABASE_URL"))
	return cmd
}

func newKeysListCmd(environ []string) *cobra.Command {
	var filter outbox.APIKeyFilter
	cmd := &cobra.Command{
		Use:   "list [--tenant T]",
		Short: "List the keys, without what is secret",
		Args:  cobra.NoArgs,
		RunE: onDatabase(environ, func(ctx context.Context, cmd *cobra.Command, conn *pgx.Conn) error {
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "ID\tTENANT\tNAME\tKEY\tVALID\tLAST USED\tPARENT\tSCOPES") //nolint:errcheck // Flush says
			for {
				keys, err := outbox.ListAPIKeys(ctx, conn, filter)
				if err != nil {
					return err
				}
				for _, k := range keys {
					fmt.Fprintf(table, "%s\t%s\t%s\t%s…\t%s\t%s\t%s\t%s\n", //nolint:errcheck // Flush says
						k.ID, k.Tenant, k.Name, k.Prefix, validity(k), cmp.Or(minute(k.LastUsedAt), "never"), cmp.Or(k.ParentID, "-"), strings.Join(k.Scopes, ","))
				}
				if len(keys) == 0 {
					return table.Flush()
				}
				filter.After = keys[len(keys)-1].ID
			}
		}),
	}
	cmd.Flags().StringVar(&filter.Tenant, "tenant", "", "of this tenant only")
	addFlags(cmd.Flags(), choose("DATABASE_URL"))
	return cmd
}

func validity(k outbox.APIKey) string {
	switch {
	case k.RevokedAt != nil:
		return "revoked " + minute(k.RevokedAt)
	case k.ExpiresAt != nil:
		return "until " + minute(k.ExpiresAt)
	default:
		return "yes"
	}
}

func minute(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04")
}

func newKeysRevokeCmd(environ []string) *cobra.Command {
	var withChildren bool
	cmd := &cobra.Command{
		Use:   "revoke ID [--with-children]",
		Short: "Make a key invalid, at once",
		Long: `Make a key invalid, at once. Keys with the scope keys:write make others by HTTP: if
somebody has found one, revoke it with its children.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onDatabase(environ, func(ctx context.Context, _ *cobra.Command, conn *pgx.Conn) error {
				return outbox.RevokeAPIKey(ctx, conn, args[0], withChildren)
			})(cmd, args)
		},
	}
	cmd.Flags().BoolVar(&withChildren, "with-children", false, "and the keys that it has made, and those that they have")
	addFlags(cmd.Flags(), choose("DATABASE_URL"))
	return cmd
}
