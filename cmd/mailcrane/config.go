package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/api"
	"github.com/mailcrane/mailcrane/sender"
)

// Config is everything that can be set. It is filled once, by load, and not
// changed afterwards.
type Config struct {
	DatabaseURL string

	SMTP              []sender.Relay
	SMTPConnections   int
	SMTPMaxMessages   int
	SMTPIdleTimeout   time.Duration
	DomainRates       map[string]sender.Rate
	From              string
	SubjectPrefix     string
	Templates         string
	AcceptURL, Secret string
	AcceptedURL       string

	Listen    string
	APIToken  string
	PublicURL string

	WebhookAllow []netip.Prefix

	Workers     int
	PollOnly    bool
	RetryMin    time.Duration
	RetryMax    time.Duration
	StopTimeout time.Duration

	Installation   string
	Lease          time.Duration
	UnsafeDatabase bool

	LogLevel  slog.Level
	LogFormat string

	values []value // as they were found, for printing
}

// setting is one line of the configuration: the flag, the environment variable,
// the line of `mailcrane config` and the check are all made from it.
type setting struct {
	name    string // of the environment variable
	initial string // the value when nothing is set
	usage   string
	secret  bool // no flag, never printed
	redact  func(string) string
	parse   func(*Config, string) error // gets no empty value
}

// flag is the setting's name on the command line.
func (s setting) flag() string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(s.name, "MAILCRANE_")), "_", "-")
}

// settings lists all that can be set, in the order in which people meet it.
func settings() []setting {
	return []setting{
		{name: "DATABASE_URL", usage: "PostgreSQL, such as postgres://user:password@host/database", redact: redactDatabaseURL,
			parse: func(c *Config, v string) error { c.DatabaseURL = v; return checkDatabaseURL(v) }},
		{name: "SMTP_URL", usage: "the relay: smtp://user:password@host:587 (STARTTLS required), smtps://…:465; or several, separated by commas", redact: redactSMTPURL,
			parse: func(c *Config, v string) (err error) { c.SMTP, err = sender.ParseRelays(v); return err }},
		{name: "MAILCRANE_FROM", usage: `the sender of the mails, such as "Club <club@example.com>"`,
			parse: func(c *Config, v string) error { c.From = v; return checkFrom(v) }},
		{name: "MAILCRANE_SUBJECT_PREFIX", usage: `stands before every subject, such as "[Club]"`,
			parse: func(c *Config, v string) error { c.SubjectPrefix = v; return nil }},
		{name: "MAILCRANE_TEMPLATES", usage: "folder with templates of your own, <locale>/<name>.html, .txt and .subject",
			parse: func(c *Config, v string) error { c.Templates = v; return nil }},
		{name: "MAILCRANE_ACCEPT_URL", usage: "where invitations are accepted, with {token} in it; needs MAILCRANE_SECRET. Default: a page of the daemon, if MAILCRANE_SECRET and MAILCRANE_PUBLIC_URL are set",
			parse: func(c *Config, v string) error { c.AcceptURL = v; return checkAcceptURL(v) }},
		{name: "MAILCRANE_ACCEPTED_URL", usage: "where that page leads who has accepted, with {id} for the invitation; default: to itself",
			parse: func(c *Config, v string) error { c.AcceptedURL = v; return checkWebURL(v) }},
		{name: "MAILCRANE_SECRET", usage: "makes the tokens in the links: at least 32 random characters, the same in every daemon", secret: true,
			parse: func(c *Config, v string) error { c.Secret = v; return longEnough(v, 32) }},
		{name: "MAILCRANE_LISTEN", initial: "127.0.0.1:8025", usage: "address of the HTTP API",
			parse: func(c *Config, v string) error { c.Listen = v; return checkListen(v) }},
		{name: "MAILCRANE_API_TOKEN", usage: "bearer token of the HTTP API; without one it answers on loopback only", secret: true,
			parse: func(c *Config, v string) error { c.APIToken = v; return longEnough(v, 16) }},
		{name: "MAILCRANE_PUBLIC_URL", usage: "how the HTTP API is reached from outside; default: its address",
			parse: func(c *Config, v string) error { c.PublicURL = strings.TrimSuffix(v, "/"); return checkWebURL(v) }},
		{name: "MAILCRANE_WEBHOOK_ALLOW", usage: "networks that webhooks may reach although they are not public, such as 10.1.0.0/16, separated by commas",
			parse: func(c *Config, v string) (err error) { c.WebhookAllow, err = parseNetworks(v); return err }},
		{name: "MAILCRANE_WORKERS", initial: "450", usage: "messages in hand at a time",
			parse: func(c *Config, v string) error { return parseInt(v, 1, 1000, &c.Workers) }},
		{name: "MAILCRANE_SMTP_CONNECTIONS", initial: "48", usage: "connections to each relay at a time, at most",
			parse: func(c *Config, v string) error { return parseInt(v, 1, 100, &c.SMTPConnections) }},
		{name: "MAILCRANE_SMTP_MAX_MESSAGES", initial: "100", usage: "messages on one connection before it is replaced",
			parse: func(c *Config, v string) error { return parseInt(v, 1, 100_000, &c.SMTPMaxMessages) }},
		{name: "MAILCRANE_SMTP_IDLE_TIMEOUT", initial: "5s", usage: "how long an unused connection to the relay stays open",
			parse: func(c *Config, v string) error { return parseDuration(v, time.Second, time.Hour, &c.SMTPIdleTimeout) }},
		{name: "MAILCRANE_DOMAIN_RATES", usage: `messages to a recipient domain, a second or /m or /h, such as "gmail.com=20, *=300/m"`,
			parse: func(c *Config, v string) (err error) { c.DomainRates, err = sender.ParseDomainRates(v); return err }},
		{name: "MAILCRANE_POLL_ONLY", initial: "false", usage: "do not LISTEN: for a pooler in transaction mode",
			parse: func(c *Config, v string) error { return parseBool(v, &c.PollOnly) }},
		{name: "MAILCRANE_RETRY_MIN", initial: "30s", usage: "wait after the first deferred attempt; doubles from there",
			parse: func(c *Config, v string) error { return parseDuration(v, time.Second, 24*time.Hour, &c.RetryMin) }},
		{name: "MAILCRANE_RETRY_MAX", initial: "2h", usage: "longest wait between attempts",
			parse: func(c *Config, v string) error { return parseDuration(v, time.Second, 24*time.Hour, &c.RetryMax) }},
		{name: "MAILCRANE_STOP_TIMEOUT", initial: "610s", usage: "how long a stop waits for answers of the relay",
			parse: func(c *Config, v string) error { return parseDuration(v, time.Second, time.Hour, &c.StopTimeout) }},
		{name: "MAILCRANE_INSTALLATION", usage: "name of this installation, such as production: a copy of its database is not sent from under another name",
			parse: func(c *Config, v string) error { c.Installation = v; return nil }},
		{name: "MAILCRANE_LEASE", initial: "10s", usage: "how long a daemon that is silent counts as alive: its messages are taken over after this",
			parse: func(c *Config, v string) error { return parseDuration(v, 2*time.Second, 10*time.Minute, &c.Lease) }},
		{name: "MAILCRANE_UNSAFE_DATABASE", initial: "false", usage: "accept a database with fsync=off, which forgets what was sent: for tests",
			parse: func(c *Config, v string) error { return parseBool(v, &c.UnsafeDatabase) }},
		{name: "LOG_LEVEL", initial: "info", usage: "debug, info, warn or error",
			parse: func(c *Config, v string) error { return c.LogLevel.UnmarshalText([]byte(v)) }},
		{name: "LOG_FORMAT", initial: "auto", usage: "text, json, or auto: text on a terminal",
			parse: func(c *Config, v string) error { c.LogFormat = v; return oneOf(v, "text", "json", "auto") }},
	}
}

// hostsJoin says whether invitations are accepted on a page of the daemon.
func (c Config) hostsJoin() bool {
	return c.AcceptURL == "" && c.Secret != "" && c.PublicURL != ""
}

// acceptURL is where invitations are accepted.
func (c Config) acceptURL() string {
	if c.hostsJoin() {
		return c.PublicURL + api.JoinPath
	}
	return c.AcceptURL
}

// together checks what one setting cannot say alone.
func (c Config) together() error {
	var mistakes []error
	if c.AcceptURL != "" && c.Secret == "" {
		mistakes = append(mistakes, errors.New("MAILCRANE_ACCEPT_URL needs MAILCRANE_SECRET, which makes the tokens"))
	}
	if c.RetryMin > c.RetryMax {
		mistakes = append(mistakes, errors.New("MAILCRANE_RETRY_MIN is longer than MAILCRANE_RETRY_MAX"))
	}
	return errors.Join(mistakes...)
}

// require checks that the named settings, which have no default, are set.
func (c Config) require(names ...string) error {
	var mistakes []error
	for _, v := range c.values {
		if v.text == "" && slices.Contains(names, v.name) {
			mistakes = append(mistakes, fmt.Errorf("%s is not set: %s", v.name, v.usage))
		}
	}
	return errors.Join(mistakes...)
}

// guardAPI refuses to offer the API to the network without a token.
func (c Config) guardAPI() error {
	host, _, _ := net.SplitHostPort(c.Listen) // checked when it was read
	if ip := net.ParseIP(host); c.APIToken == "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("MAILCRANE_LISTEN=%s is open to the network: set MAILCRANE_API_TOKEN, or listen on 127.0.0.1", c.Listen)
	}
	return nil
}

func checkDatabaseURL(v string) error {
	if _, err := pgx.ParseConfig(v); err != nil {
		return errors.New("is not a PostgreSQL URL such as postgres://user:password@host:5432/database")
	}
	return nil
}

func checkFrom(v string) error {
	if _, err := mail.ParseAddress(v); err != nil {
		return errors.New(`is not a mailbox such as "Club <club@example.com>"`)
	}
	return nil
}

func checkWebURL(v string) error {
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return errors.New("is not a web address such as https://mail.example.com")
	}
	return nil
}

func checkAcceptURL(v string) error {
	if !strings.Contains(v, "{token}") || checkWebURL(strings.ReplaceAll(v, "{token}", "token")) != nil {
		return errors.New("is not a web address with {token} in it, such as https://app.example.com/join?token={token}")
	}
	return nil
}

func parseNetworks(v string) (networks []netip.Prefix, err error) {
	for text := range strings.SplitSeq(v, ",") {
		network, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return nil, errors.New("is not a list of networks such as 10.1.0.0/16, separated by commas")
		}
		networks = append(networks, network)
	}
	return networks, nil
}

func checkListen(v string) error {
	_, port, err := net.SplitHostPort(v)
	if n, convErr := strconv.Atoi(port); err != nil || convErr != nil || n < 0 || n > 65535 {
		return errors.New("is not an address such as 127.0.0.1:8025")
	}
	return nil
}

func longEnough(v string, least int) error {
	if len(v) < least {
		return fmt.Errorf("is shorter than %d characters: `openssl rand -hex 32` makes a good one", least)
	}
	return nil
}

func oneOf(v string, allowed ...string) error {
	if slices.Contains(allowed, v) {
		return nil
	}
	return fmt.Errorf("is none of %s", strings.Join(allowed, ", "))
}

func parseInt(v string, least, most int, into *int) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < least || n > most {
		return fmt.Errorf("is not a whole number from %d to %d", least, most)
	}
	*into = n
	return nil
}

func parseBool(v string, into *bool) (err error) {
	if *into, err = strconv.ParseBool(v); err != nil {
		return errors.New("is neither true nor false")
	}
	return nil
}

func parseDuration(v string, least, most time.Duration, into *time.Duration) error {
	d, err := time.ParseDuration(v)
	if err != nil || d < least || d > most {
		return fmt.Errorf("is not a duration from %s to %s, such as 90s or 2h", least, most)
	}
	*into = d
	return nil
}
