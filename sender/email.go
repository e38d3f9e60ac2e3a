package sender

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/mail"
	"os"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// EmailConfig says how mail is written and through which relay it goes. Relay
// and From are required; everything else has a sensible zero value.
type EmailConfig struct {
	Relay         Relay      // see [ParseRelay]
	From          string     // mailbox of the From field, such as "Club <club@example.com>"
	EnvelopeFrom  string     // address that bounces go to; default: the address in From
	SubjectPrefix string     // stands before every subject, such as "[Club]"; default none
	Templates     *Templates // default: the embedded ones

	Connections      int           // open at the same time; default 8
	MaxPerConnection int           // messages; default 100
	MaxConnectionAge time.Duration // default 300 s
	IdleTimeout      time.Duration // an unused connection is closed after this; default 5 s
	Timeouts         Timeouts      // of the single steps; default RFC 5321 section 4.5.3.2

	LocalName string       // our name in EHLO; default: the name of this host
	TLS       *tls.Config  // default: the system's certificate authorities, TLS 1.2 or later
	Logger    *slog.Logger // default: slog.Default()
}

// Email sends messages of the channel "email" through one relay. It is safe for
// use by many goroutines, and implements [outbox.Sender].
type Email struct {
	from         mail.Address
	envelopeFrom string
	prefix       string
	templates    *Templates
	dialer       dialer
	pool         *pool
	logger       *slog.Logger
}

var _ outbox.Sender = (*Email)(nil)

// NewEmail checks the configuration, and reports all its mistakes together. It
// opens no connection.
func NewEmail(cfg EmailConfig) (*Email, error) {
	var problems []error
	problem := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	if cfg.Relay.host == "" {
		problem(errors.New("the relay is missing"))
	}
	from, err := parseMailbox(cfg.From)
	if err != nil {
		problem(fmt.Errorf("from %w", err))
	}
	envelopeFrom := from.Address
	if cfg.EnvelopeFrom != "" {
		if envelopeFrom, err = asciiAddress(cfg.EnvelopeFrom); err != nil {
			problem(fmt.Errorf("envelope from %w", err))
		}
	}
	localName, err := localName(cfg.LocalName)
	problem(err)
	templates := cfg.Templates
	if templates == nil {
		templates, err = LoadTemplates(nil)
		problem(err)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("email: %w", errors.Join(problems...))
	}
	return &Email{
		from:         from,
		envelopeFrom: envelopeFrom,
		prefix:       oneLine(cfg.SubjectPrefix),
		templates:    templates,
		dialer: dialer{
			relay: cfg.Relay, localName: localName,
			tls: tlsConfig(cfg.TLS, cfg.Relay.host), timeouts: cfg.Timeouts.withDefaults(),
		},
		pool: newPool(defaultTo(cfg.Connections, 8), defaultTo(cfg.MaxPerConnection, 100),
			defaultTo(cfg.MaxConnectionAge, 300*time.Second), defaultTo(cfg.IdleTimeout, 5*time.Second)),
		logger: cmp.Or(cfg.Logger, slog.Default()),
	}, nil
}

func localName(configured string) (string, error) {
	if configured == "" {
		host, _ := os.Hostname() // without one, "localhost" has to do
		return helloName(host), nil
	}
	if helloName(configured) != configured {
		return "", errors.New("local name is not a domain name")
	}
	return configured, nil
}

func tlsConfig(base *tls.Config, host string) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if base != nil {
		config = base.Clone()
	}
	config.ServerName = cmp.Or(config.ServerName, host)
	return config
}

// Send renders m, and hands it to the relay as package comment and
// [outbox.Sender] describe. An error is a [*outbox.SendError]: Rejected if the
// template, the address or the relay say that no later attempt would differ,
// Unknown if the answer to the dot was lost, Deferred otherwise. If it wraps
// [ErrRefused] the relay refuses us, which is logged as an error too.
func (e *Email) Send(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
	envelope, err := e.compose(m)
	if err != nil {
		return outbox.Reply{}, &outbox.SendError{Outcome: outbox.Rejected, Err: err}
	}
	reply, fail := e.deliver(ctx, envelope, handover)
	if fail == nil {
		return reply, nil
	}
	err = fail.sendError()
	if errors.Is(err, ErrRefused) {
		e.logger.ErrorContext(ctx, "relay refuses us", "message_id", m.ID, "attempt", m.Attempt, "channel", m.Channel,
			"relay", e.dialer.relay.Addr(), "code", reply.Code, "enhanced", reply.Enhanced, "error", err)
	}
	return reply, err
}

// Compose gives the bytes that Send would transmit for m, for a preview. They
// are the same on every call with the same message, templates and configuration.
func (e *Email) Compose(m *outbox.Message) ([]byte, error) {
	envelope, err := e.compose(m)
	return envelope.data, err
}

// Close closes the connections that wait for work. It does not wait for
// messages under way; their connections are closed as they end.
func (e *Email) Close() error {
	e.pool.close()
	return nil
}

// deliver finds a connection for the envelope. One that has been used before may
// have died unnoticed; then, and only before anything was offered, a fresh one
// gets its chance.
func (e *Email) deliver(ctx context.Context, env envelope, handover outbox.Handover) (outbox.Reply, *failure) {
	if err := e.pool.acquire(ctx); err != nil {
		return outbox.Reply{}, &failure{phase: phaseConnect, err: err}
	}
	defer e.pool.release()
	if c := e.pool.take(); c != nil {
		reply, fail := e.converse(ctx, c, env, handover)
		if fail == nil || !fail.stale {
			return reply, fail
		}
	}
	c, fail := e.dialer.dial(ctx)
	if fail != nil {
		return fail.reply, fail
	}
	return e.converse(ctx, c, env, handover)
}

// converse puts the connection back afterwards, in a panic too; put closes it
// unless the dialogue came to a clean end.
func (e *Email) converse(ctx context.Context, c *conn, env envelope, handover outbox.Handover) (outbox.Reply, *failure) {
	defer e.pool.put(c)
	reply, fail := c.send(ctx, env, handover)
	if fail != nil {
		reply = fail.reply
	}
	reply.Relay = c.relay
	return reply, fail
}
