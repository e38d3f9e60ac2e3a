package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/mail"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/mailcrane/mailcrane/api"
	"github.com/mailcrane/mailcrane/migrations"
	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
)

func newServeCmd(environ []string) *cobra.Command {
	var noAPI, noRelay bool
	var profile string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon: the HTTP API, and the relay that sends what was committed",
		Long: `Run the daemon: the HTTP API, and the relay that sends what was committed.

SIGTERM stops it: nothing new is begun, answers of the relay that are under way
are waited for (MAILCRANE_STOP_TIMEOUT), and the exit code is 0.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := load(cmd.Flags(), environ, choose())
			required := []string{"DATABASE_URL"}
			if !noRelay {
				required = append(required, "SMTP_URL", "MAILCRANE_FROM")
			}
			if err := errors.Join(err, c.require(required...), c.guardAPI()); err != nil {
				return err
			}
			stop, err := startProfile(profile)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, stop()) }()
			d := daemon{Config: c, log: newLogger(c, cmd.ErrOrStderr()), api: !noAPI, relay: !noRelay}
			return d.serve(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&noAPI, "no-api", false, "do not serve HTTP")
	cmd.Flags().BoolVar(&noRelay, "no-relay", false, "do not send: serve the HTTP API only")
	cmd.MarkFlagsMutuallyExclusive("no-api", "no-relay")
	cmd.Flags().StringVar(&profile, "cpuprofile", "", "write a processor profile to this file, for `go tool pprof`")
	_ = cmd.Flags().MarkHidden("cpuprofile") // fails only if there is no such flag
	addFlags(cmd.Flags(), choose())
	return cmd
}

// daemon is a configuration with what only the program itself decides.
type daemon struct {
	Config
	log        *slog.Logger
	api, relay bool
	extra      map[string]http.Handler // more pages, by pattern
	serving    func(baseURL string)    // called once everything runs; may be nil
	listener   net.Listener            // for the HTTP API; nil: opened when it starts
	templates  *sender.Templates       // loaded when it starts
}

// serve builds the parts in the order in which they need each other, runs them
// until ctx ends or one fails, and takes them down in reverse.
func (d daemon) serve(ctx context.Context) (err error) {
	collectLess()
	pool, err := d.connect(ctx, relayConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	if d.templates, err = d.loadTemplates(); err != nil {
		return err
	}
	ready := pool.Ping
	failed := make(chan error, 1)
	if d.relay {
		email, err := d.newEmail()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, email.Close()) }()
		relay, err := d.startRelay(ctx, pool, email)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.stopRelay(ctx, relay)) }()
		ready = func(context.Context) error { return relay.Ready() }
	}
	if d.api {
		pool, err := d.connect(ctx, apiConnections, d.keepForAPI)
		if err != nil {
			return err
		}
		defer pool.Close()
		stop, err := d.listen(ctx, pool, ready, failed)
		if err != nil {
			return err
		}
		defer stop()
	}
	d.log.Info("mailcrane runs", "version", programVersion(), "api", d.api, "relay", d.relay)
	select {
	case <-ctx.Done():
		d.log.Info("stopping")
		return nil
	case err := <-failed:
		return err
	}
}

// Connections to the database suffice for any number of workers, as they share
// transactions: four for these, four for what has to be written alone, four for
// the queue, of which one listens, and one for the heartbeat. The relay opens three
// more for its upkeep. The HTTP API has others: its requests may all wait for a row that
// somebody has locked, and that must be in nobody else's way.
const (
	relayConnections = 13
	apiConnections   = 10
)

// apiLockTimeout is how long a request waits for what somebody has locked, and keeps a
// connection from the others: a little less than its answer takes at most.
const apiLockTimeout = 8 * time.Second

// collectLess lets the heap grow threefold before it is collected. Little of it is
// in use at any time, so that costs a few megabytes.
func collectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
}

// keepForAPI sets up the connections of the HTTP API. All are kept open, and do not
// grow old together: opening one takes longer than most requests, and whatever holds
// up a few requests would have as many opened at a time. A pooler has some open
// already, and would pass the lock timeout on to others.
func (d daemon) keepForAPI(config *pgxpool.Config) {
	if d.PollOnly {
		return
	}
	if !strings.Contains(d.DatabaseURL, "pool_min_") {
		config.MinConns = config.MaxConns
	}
	config.MaxConnLifetimeJitter = cmp.Or(config.MaxConnLifetimeJitter, config.MaxConnLifetime/4)
	afterConnect := config.AfterConnect
	turn := make(chan struct{}, 1) // all at a time take all the processors
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, fmt.Sprintf(`SET lock_timeout = %d`, apiLockTimeout.Milliseconds()))
		if err = errors.Join(err, afterConnect(ctx, conn)); err != nil {
			return err
		}
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
			ctx, cancel := context.WithTimeout(ctx, apiLockTimeout) // a server that has gone silent keeps nobody else's turn
			defer cancel()
			return rehearse(ctx, conn)
		case <-time.After(apiLockTimeout / 2):
			return nil // unrehearsed, rather than too late for a request
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rehearse writes an invitation and takes it back. What a session does for the first
// time takes it several times as long, as PostgreSQL plans every statement then, and
// no request should pay for that. If it cannot be, the first request does.
func rehearse(ctx context.Context, conn *pgx.Conn) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '100ms'`); err == nil {
		_, _ = outbox.Invite(ctx, tx, outbox.Invitation{Tenant: "rehearsal", GroupID: "rehearsal", Email: rand.Text() + "@mailcrane.invalid"})
	}
	return tx.Rollback(ctx)
}

// connect opens the database and refuses one with another schema than ours.
func (d daemon) connect(ctx context.Context, connections int32, more ...func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(d.DatabaseURL)
	if err != nil {
		return nil, errors.New("DATABASE_URL is not a PostgreSQL URL")
	}
	if !strings.Contains(d.DatabaseURL, "pool_max_conns") {
		config.MaxConns = connections
	}
	config.ConnConfig.RuntimeParams["application_name"] = cmp.Or(config.ConnConfig.RuntimeParams["application_name"], "mailcrane")
	if d.PollOnly && !strings.Contains(d.DatabaseURL, "default_query_exec_mode") {
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe // a pooler may change the server connection any time
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		// Whatever the server's default is: what we have promised must be on disk.
		_, err := conn.Exec(ctx, `SET synchronous_commit = 'on'`)
		return err
	}
	for _, setUp := range more {
		setUp(config)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	if err := migrations.Check(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

func (c Config) loadTemplates() (*sender.Templates, error) {
	var overrides fs.FS
	if c.Templates != "" {
		overrides = os.DirFS(c.Templates)
	}
	templates, err := sender.LoadTemplates(overrides)
	if err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	return templates, nil
}

func (d daemon) newEmail() (*sender.Email, error) {
	return sender.NewEmail(sender.EmailConfig{
		Relays:           d.SMTP,
		From:             d.From,
		SubjectPrefix:    d.SubjectPrefix,
		Templates:        d.templates,
		Connections:      d.SMTPConnections,
		MaxPerConnection: d.SMTPMaxMessages,
		IdleTimeout:      d.SMTPIdleTimeout,
		DomainRates:      d.DomainRates,
		Logger:           d.log,
	})
}

func (d daemon) newWebhook(pool *pgxpool.Pool) (*sender.Webhook, error) {
	return sender.NewWebhook(sender.WebhookConfig{
		Endpoint: func(ctx context.Context, id string) (w outbox.Webhook, secrets [][]byte, err error) {
			if w, err = outbox.GetWebhook(ctx, pool, id); err == nil && d.Secret != "" {
				secrets = w.Secrets([]byte(d.Secret))
			}
			return w, secrets, err
		},
		Disable: func(ctx context.Context, id, because string) error {
			return outbox.DisableWebhook(ctx, pool, id, because)
		},
		Allow: d.WebhookAllow,
	})
}

func (d daemon) startRelay(ctx context.Context, pool *pgxpool.Pool, email *sender.Email) (*outbox.Relay, error) {
	webhook, err := d.newWebhook(pool)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname() // for people only
	relay, err := outbox.NewRelay(outbox.RelayConfig{
		Pool:            pool,
		Senders:         map[string]outbox.Sender{"email": email, outbox.WebhookChannel: webhook},
		Logger:          d.log,
		Name:            fmt.Sprintf("%s:%d", host, os.Getpid()),
		Version:         programVersion(),
		Workers:         d.Workers,
		PollOnly:        d.PollOnly,
		RetryMin:        d.RetryMin,
		RetryMax:        d.RetryMax,
		AcceptURL:       d.acceptURL(),
		Secret:          []byte(d.Secret),
		MessageIDDomain: domainOf(d.From),
		Installation:    d.Installation,
		AllowUnsafe:     d.UnsafeDatabase,
		Lease:           d.Lease,
	})
	if err != nil {
		return nil, err
	}
	return relay, relay.Start(ctx)
}

// stopRelay gives answers that are under way the time they may take.
func (d daemon) stopRelay(ctx context.Context, relay *outbox.Relay) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.StopTimeout)
	defer cancel()
	return relay.Stop(ctx)
}

func (c Config) openListener(ctx context.Context) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("HTTP API: %w (another address: --listen)", err)
	}
	return listener, nil
}

// listen serves HTTP in the background. stop lets requests in hand finish.
func (d daemon) listen(ctx context.Context, pool *pgxpool.Pool, ready func(context.Context) error, failed chan<- error) (stop func(), err error) {
	handler, err := api.New(api.Config{
		Pool: pool, Token: d.APIToken, Ready: ready, Logger: d.log, Version: programVersion(),
		Templates: d.templates, AcceptURL: d.acceptURL(), Secret: []byte(d.Secret),
		Join: d.hostsJoin(), JoinNext: d.AcceptedURL,
		WebhookProblem: func(url string) string { return sender.WebhookProblem(url, d.WebhookAllow) },
	})
	if err != nil {
		return nil, fmt.Errorf("HTTP API: %w", err)
	}
	if len(d.extra) > 0 {
		mux := http.NewServeMux()
		mux.Handle("/", handler)
		for pattern, h := range d.extra {
			mux.Handle(pattern, h)
		}
		handler = mux
	}
	listener := d.listener
	if listener == nil {
		if listener, err = d.openListener(ctx); err != nil {
			return nil, err
		}
	}
	server := api.NewServer(d.Listen, handler, d.log)
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("HTTP API: %w", err)
		}
	}()
	baseURL := cmp.Or(d.PublicURL, "http://"+listener.Addr().String())
	d.log.Info("HTTP API listens", "address", listener.Addr().String())
	if d.serving != nil {
		d.serving(baseURL)
	}
	return func() {
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(patience); err != nil {
			d.log.Warn("HTTP API cut off", "error", err)
		}
	}, nil
}

// newLogger writes text to a terminal and JSON to anything else, unless told.
func newLogger(c Config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	file, isFile := w.(*os.File)
	if c.LogFormat == "text" || c.LogFormat == "auto" && isFile && isTerminal(file) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// domainOf gives what stands after the @ of a mailbox.
func domainOf(mailbox string) string {
	address, err := mail.ParseAddress(mailbox)
	if err != nil {
		return ""
	}
	return address.Address[strings.LastIndexByte(address.Address, '@')+1:]
}
