package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mailcrane/mailcrane/api"
	"github.com/mailcrane/mailcrane/migrations"
	"github.com/mailcrane/mailcrane/outbox/localpg"
	"github.com/mailcrane/mailcrane/sender"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// devSettings are the settings that mean something to `mailcrane dev`; the rest
// it fills in itself.
func devSettings() []setting {
	return choose("DATABASE_URL", "MAILCRANE_LISTEN", "MAILCRANE_FROM", "MAILCRANE_SUBJECT_PREFIX", "MAILCRANE_TEMPLATES",
		"MAILCRANE_ACCEPT_URL", "MAILCRANE_ACCEPTED_URL", "MAILCRANE_SECRET", "MAILCRANE_API_TOKEN", "MAILCRANE_WORKERS", "MAILCRANE_SMTP_CONNECTIONS",
		"MAILCRANE_POLL_ONLY", "MAILCRANE_RETRY_MIN", "MAILCRANE_RETRY_MAX", "MAILCRANE_STOP_TIMEOUT", "LOG_LEVEL", "LOG_FORMAT")
}

func newDevCmd(environ []string) *cobra.Command {
	var ephemeral bool
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Try everything on this machine: a private PostgreSQL, the daemon, and an inbox that catches all mail",
		Long: `Try everything on this machine: a private PostgreSQL, the daemon, and an inbox
that catches all mail. Nothing needs to be configured, and no mail leaves the
machine.

Addresses that begin with bounce, greylist, slow or drop show what happens when a
relay refuses a recipient, asks to come back later, takes its time, or hangs up
before it has answered.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := load(cmd.Flags(), environ, devSettings())
			if err := errors.Join(err, c.guardAPI()); err != nil {
				return err
			}
			return dev(cmd.Context(), c, ephemeral, cmd.Flags().Changed("database-url"), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&ephemeral, "ephemeral", false, "keep the database in a temporary folder and remove it at the end")
	addFlags(cmd.Flags(), devSettings())
	return cmd
}

// dev is serve with a filled-in configuration.
func dev(ctx context.Context, c Config, ephemeral, givenDatabase bool, stdout, stderr io.Writer) (err error) {
	listener, err := c.openListener(ctx) // first: the links in the mails lead here
	if err != nil {
		return err
	}
	defer listener.Close() //nolint:errcheck // the server has closed it
	d := daemon{Config: c.forDev("http://" + listener.Addr().String()), log: newLogger(c, stderr), api: true, relay: true, listener: listener}
	if !givenDatabase {
		server, startErr := localpg.Start(ctx, localpg.Config{Ephemeral: ephemeral, Logger: d.log})
		switch {
		case startErr == nil:
			if c.DatabaseURL != "" {
				d.log.Info("DATABASE_URL is left alone, dev has a database of its own: --database-url would use yours")
			}
			d.DatabaseURL = server.URL()
			defer func() { err = errors.Join(err, server.Stop(context.WithoutCancel(ctx))) }()
		case c.DatabaseURL == "" || !errors.Is(startErr, localpg.ErrNoBinaries):
			return startErr
		}
	}
	if err := migrations.Up(ctx, d.DatabaseURL); err != nil {
		return err
	}
	box, err := mailbox.Listen(mailbox.Config{DemoFaults: true, Logger: d.log})
	if err != nil {
		return err
	}
	defer box.Close() //nolint:errcheck // its mails end with it
	if d.SMTP, err = sender.ParseRelays("smtp://" + box.Addr() + "?tls=none"); err != nil {
		return err
	}
	inbox := box.Handler()
	if d.APIToken == "" {
		inbox = api.LocalOnly(inbox) // the links in the mails are as good as keys
	}
	d.extra = map[string]http.Handler{
		"/inbox": inbox, "/inbox/": inbox,
		"GET /{$}": http.RedirectHandler("/inbox", http.StatusFound),
	}
	d.serving = func(baseURL string) { _, _ = fmt.Fprint(stdout, welcome(baseURL, d.DatabaseURL)) }
	return d.serve(ctx)
}

// forDev fills in what is not set.
func (c Config) forDev(publicURL string) Config {
	if c.From == "" {
		c.From = "Mailcrane <mailcrane@example.com>"
	}
	if c.AcceptURL == "" {
		c.PublicURL = publicURL
		c.Secret = "for development on this machine only"
	}
	c.WebhookAllow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	if !c.isSet("MAILCRANE_RETRY_MIN") {
		c.RetryMin = 5 * time.Second // nobody wants to wait half a minute for a demonstration
	}
	c.SMTPMaxMessages, c.SMTPIdleTimeout = 100, 5*time.Second
	return c
}

func (c Config) isSet(name string) bool {
	for _, v := range c.values {
		if v.name == name {
			return v.from != sourceDefault
		}
	}
	return false
}

func welcome(baseURL, databaseURL string) string {
	return strings.NewReplacer("{base}", baseURL, "{database}", databaseURL).Replace(`
Mailcrane runs. No mail leaves this machine.

  Inbox         {base}/inbox
  API           {base}/docs
  DATABASE_URL  {database}

Invite somebody, and look into the inbox:

  curl --json '{"email":"ada@example.com","group_name":"Analytical Engine Club","inviter_name":"Charles"}' {base}/v1/groups/42/invitations

`)
}
