package sender

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// EmailConfig says how mail is written and through which relays it goes. Relays
// and From are required; everything else has a sensible zero value.
type EmailConfig struct {
	Relays        []Relay    // in the order in which they are tried; see [ParseRelays]
	From          string     // mailbox of the From field, such as "Club <club@example.com>"
	EnvelopeFrom  string     // address that bounces go to; default: the address in From
	SubjectPrefix string     // stands before every subject, such as "[Club]"; default none
	Templates     *Templates // default: the embedded ones

	Connections      int           // open to each relay at the same time, unless its URL says so, beginning with 4; default 48
	MaxPerConnection int           // messages; default 100
	MaxConnectionAge time.Duration // default 300 s
	IdleTimeout      time.Duration // an unused connection is closed after this; default 5 s
	Timeouts         Timeouts      // of the single steps; default RFC 5321 section 4.5.3.2

	DomainRates map[string]Rate // of messages to a recipient domain, "*" being each other domain; default: no limit
	BreakerMin  time.Duration   // a relay that fails is left alone for so long; default 5 s
	BreakerMax  time.Duration   // doubling up to this while it refuses us, and up to 30 s while it fails; default 5 min

	LocalName string       // our name in EHLO; default: the name of this host
	TLS       *tls.Config  // default: the system's certificate authorities, TLS 1.2 or later
	Logger    *slog.Logger // default: slog.Default()
}

// Email sends messages of the channel "email" through one of its relays. It is
// safe for use by many goroutines, and implements [outbox.Sender].
type Email struct {
	letterhead   letterhead
	envelopeFrom string
	prefix       string
	templates    *Templates
	buffers      buffers
	routes       []*route
	domains      *domainLimits
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
	if len(cfg.Relays) == 0 || slices.ContainsFunc(cfg.Relays, func(r Relay) bool { return r.host == "" }) {
		problem(errors.New("the relay is missing"))
	}
	domains, err := newDomainLimits(cfg.DomainRates)
	problem(err)
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
		letterhead:   newLetterhead(from),
		envelopeFrom: envelopeFrom,
		prefix:       oneLine(cfg.SubjectPrefix),
		templates:    templates,
		routes:       cfg.routes(localName),
		domains:      domains,
		logger:       cmp.Or(cfg.Logger, slog.Default()),
	}, nil
}

// routes prepares the way to each relay.
func (cfg EmailConfig) routes(localName string) []*route {
	var routes []*route
	shortest := defaultTo(cfg.BreakerMin, 5*time.Second)
	for i, relay := range cfg.Relays {
		connections := cmp.Or(relay.connections, defaultTo(cfg.Connections, 48))
		routes = append(routes, &route{
			priority: cmp.Or(relay.priority, i+1),
			dialer: dialer{
				relay: relay, localName: localName,
				tls: tlsConfig(cfg.TLS, relay.host), timeouts: cfg.Timeouts.withDefaults(),
			},
			pool: newPool(connections, defaultTo(cfg.MaxPerConnection, 100),
				defaultTo(cfg.MaxConnectionAge, 300*time.Second), defaultTo(cfg.IdleTimeout, 5*time.Second)),
			breaker: &breaker{shortest: shortest, longest: max(shortest, defaultTo(cfg.BreakerMax, 5*time.Minute))},
			limit:   newLimit(relay.rate),
			logger:  cmp.Or(cfg.Logger, slog.Default()),
		})
	}
	return routes
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

// Send renders m, and hands it to one of the relays as package comment and
// [outbox.Sender] describe. An error is a [*outbox.SendError]: Rejected if the
// template, the address or the relay say that no later attempt would differ,
// Unknown if the answer to the dot was lost, Deferred otherwise. Or it is an
// [*outbox.Unavailable]: no relay works at the moment, those tried refuse us
// ([ErrRefused]), or a limit is reached. The reply is that of the relay tried
// last.
func (e *Email) Send(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
	if err := e.usable(); err != nil {
		return outbox.Reply{}, err
	}
	b := e.buffers.take()
	defer e.buffers.giveBack(b) // the dialogue is over when deliver returns, and nobody reads the mail any more
	envelope, err := e.compose(m, b)
	if err != nil {
		return outbox.Reply{}, &outbox.SendError{Outcome: outbox.Rejected, Err: err}
	}
	if err := e.admit(ctx, envelope); err != nil {
		return outbox.Reply{}, err
	}
	return e.deliver(ctx, m, envelope, handover)
}

// Compose gives the bytes that Send would transmit for m, for a preview. They
// are the same on every call with the same message, templates and configuration.
func (e *Email) Compose(m *outbox.Message) ([]byte, error) {
	b := e.buffers.take()
	defer e.buffers.giveBack(b)
	envelope, err := e.compose(m, b)
	return bytes.Clone(envelope.data), err
}

// Close closes the connections that wait for work. It does not wait for
// messages under way; their connections are closed as they end.
func (e *Email) Close() error {
	for _, r := range e.routes {
		r.pool.close()
	}
	return nil
}
