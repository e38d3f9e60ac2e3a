package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/mailcrane/mailcrane/outbox"
)

func newInviteCmd(environ []string) *cobra.Command {
	var inv outbox.Invitation
	var sendAfter, data string
	cmd := &cobra.Command{
		Use:   "invite --group-id ID --email ADDRESS",
		Short: "Write one invitation and its message; a running daemon sends it",
		Example: `  mailcrane invite --group-id 42 --group-name "Analytical Engine Club" \
    --email ada@example.com --inviter-name Charles`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			databaseURL, err := databaseOnly(cmd, environ)
			if err != nil {
				return err
			}
			if data != "" {
				if err := json.Unmarshal([]byte(data), &inv.Data); err != nil {
					return fmt.Errorf("--data is not a JSON object: %w", err)
				}
			}
			if sendAfter != "" {
				if inv.SendAfter, err = time.Parse(time.RFC3339, sendAfter); err != nil {
					return fmt.Errorf("--send-after is not a time such as 2030-01-31T09:00:00Z: %w", err)
				}
			}
			conn, err := pgx.Connect(cmd.Context(), databaseURL)
			if err != nil {
				return err
			}
			defer conn.Close(cmd.Context()) //nolint:errcheck // the one statement has been answered
			receipt, err := outbox.Invite(cmd.Context(), conn, inv)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: invitation %s, message %s\n",
				receipt.Result, receipt.InvitationID, receipt.MessageID)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&inv.Email, "email", "", "the address to write to")
	flags.StringVar(&inv.GroupID, "group-id", "", "the application's id of the group")
	flags.StringVar(&inv.GroupName, "group-name", "", "what the mail calls the group")
	flags.StringVar(&inv.InviterID, "inviter-id", "", "the application's id of the inviter")
	flags.StringVar(&inv.InviterName, "inviter-name", "", "what the mail calls the inviter")
	flags.StringVar(&inv.Link, "link", "", "where to accept; default: a link with a token")
	flags.StringVar(&inv.Locale, "locale", "", "language of the mail, such as de-AT; default en")
	flags.StringVar(&data, "data", "", "more values for the template, as a JSON object")
	flags.StringVar(&sendAfter, "send-after", "", "do not send before this time, such as 2030-01-31T09:00:00Z")
	flags.DurationVar(&inv.ExpiresIn, "expires-in", 0, "how long it can be accepted; default 168h")
	flags.IntVar(&inv.Priority, "priority", 0, "1 (first) to 4 (last); default 2")
	flags.StringVar(&inv.IdempotencyKey, "idempotency-key", "", "a second call with the same key gives the first one's result")
	flags.StringVar(&inv.Tenant, "tenant", "", `default "default"`)
	addFlags(flags, choose("DATABASE_URL"))
	return cmd
}
