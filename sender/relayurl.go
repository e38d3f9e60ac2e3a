package sender

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

// encryption is how a connection to the relay is protected.
type encryption int

const (
	startTLS    encryption = iota // STARTTLS, required (RFC 3207)
	implicitTLS                   // TLS from the first byte (RFC 8314)
	plaintext
)

// Relay says where the mail goes and how to log in there. Its zero value is of
// no use: [ParseRelay] makes one. It prints without user name and password.
type Relay struct {
	host       string
	port       string
	encryption encryption
	user       string
	password   string
	mechanism  string // forced AUTH mechanism, upper case; empty: the best on offer

	priority    int  // from 1, lower first; 0: its place among the relays
	connections int  // open at the same time; 0: as EmailConfig says
	rate        Rate // of messages; zero: as many as it takes
}

// ParseRelays reads the URLs of one or several relays, separated by commas or
// white space. What each may hold is said at [ParseRelay]; a comma in user name
// or password is written %2C. The error lists the mistakes of all.
func ParseRelays(rawURLs string) ([]Relay, error) {
	list := splitList(rawURLs)
	if len(list) == 0 {
		return nil, errors.New("relay URL: there is none")
	}
	var relays []Relay
	var problems []error
	for i, rawURL := range list {
		name := "relay URL"
		if len(list) > 1 {
			name = fmt.Sprintf("relay URL %d", i+1)
		}
		relay, err := parseRelay(name, rawURL)
		relays, problems = append(relays, relay), append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return relays, nil
}

// splitList takes a list apart at commas and white space.
func splitList(list string) []string {
	return strings.FieldsFunc(list, func(c rune) bool { return c == ',' || unicode.IsSpace(c) })
}

// ParseRelay reads a relay's URL:
//
//	smtp://user:password@mail.example.com         STARTTLS required, port 587
//	smtps://user:password@mail.example.com        TLS from the first byte, port 465
//	smtp://127.0.0.1:1025?tls=none                no encryption, port 25 if none is given
//
// User name and password are percent-encoded where they hold characters that
// mean something in a URL. The parameters are:
//
//	tls=starttls            the default with smtp
//	tls=none                no encryption, by explicit choice
//	auth=plain|login|scram-sha-1|scram-sha-256
//	                        use this mechanism; the default is the strongest on offer
//	plaintext_auth=allow    send credentials without encryption to another machine;
//	                        refused without this word
//	priority=1              1 to 1000: among several relays the lowest number comes
//	                        first, and equal ones share the mail; the default is the
//	                        place in the list
//	connections=8           1 to 100, open at the same time; the default is
//	                        EmailConfig.Connections
//	rate=20                 messages a second at most, or 600/m, or 10000/h: see [Rate];
//	                        without it there is no limit
//
// The error lists every mistake, and quotes nothing that could be a password.
func ParseRelay(rawURL string) (Relay, error) { return parseRelay("relay URL", rawURL) }

// parseRelay calls the URL by name in its errors.
func parseRelay(name, rawURL string) (Relay, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The parser's own message quotes parts of the URL, the password perhaps.
		return Relay{}, errors.New(name + ": cannot be parsed; characters such as / ? # % , in user name and password must be percent-encoded")
	}
	r := Relay{host: u.Hostname(), port: u.Port(), user: u.User.Username()}
	r.password, _ = u.User.Password()
	var problems []error
	problem := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf(name+": "+format, args...))
	}

	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		problem("the parameters after ? cannot be parsed")
	}
	for parameter := range query {
		if !slices.Contains([]string{"tls", "auth", "plaintext_auth", "priority", "connections", "rate"}, parameter) {
			problem("unknown parameter; there are tls, auth, plaintext_auth, priority, connections and rate")
		}
	}
	if err := r.setEncryption(u.Scheme, query.Get("tls")); err != nil {
		problem("%w", err)
	}
	if err := r.setAddress(); err != nil {
		problem("%w", err)
	}
	if u.Path != "" && u.Path != "/" || u.Fragment != "" || u.Opaque != "" {
		problem("nothing may follow host and port but parameters")
	}
	if err := r.setAuth(u.User, query.Get("auth"), query.Get("plaintext_auth")); err != nil {
		problem("%w", err)
	}
	if err := r.setShare(query); err != nil {
		problem("%w", err)
	}
	if len(problems) > 0 {
		return Relay{}, errors.Join(problems...)
	}
	return r, nil
}

// setShare reads which part of the mail the relay gets.
func (r *Relay) setShare(query url.Values) (err error) {
	for _, number := range []struct {
		name string
		most int
		into *int
	}{{"priority", 1000, &r.priority}, {"connections", 100, &r.connections}} {
		if !query.Has(number.name) {
			continue
		}
		if *number.into, err = strconv.Atoi(query.Get(number.name)); err != nil || *number.into < 1 || *number.into > number.most {
			return fmt.Errorf("%s must be 1 to %d", number.name, number.most)
		}
	}
	if query.Has("rate") {
		if r.rate, err = ParseRate(query.Get("rate")); err != nil {
			return fmt.Errorf("rate %w", err)
		}
	}
	return nil
}

func (r *Relay) setEncryption(scheme, choice string) error {
	switch {
	case scheme == "smtp" && (choice == "" || choice == "starttls"):
		r.encryption = startTLS
	case scheme == "smtp" && choice == "none":
		r.encryption = plaintext
	case scheme == "smtps" && choice == "":
		r.encryption = implicitTLS
	case scheme == "smtps":
		return errors.New("smtps is TLS from the first byte and takes no tls parameter")
	case scheme == "smtp":
		return errors.New("tls must be starttls or none")
	default:
		return errors.New("the scheme must be smtp or smtps")
	}
	return nil
}

func (r *Relay) setAddress() error {
	if r.host == "" {
		return errors.New("the host is missing")
	}
	if strings.ContainsFunc(r.host, func(c rune) bool { return c > unicode.MaxASCII }) {
		ascii, err := idna.Lookup.ToASCII(r.host)
		if err != nil {
			return errors.New("the host is not a domain name")
		}
		r.host = ascii
	}
	if r.port == "" {
		r.port = map[encryption]string{startTLS: "587", implicitTLS: "465", plaintext: "25"}[r.encryption]
	}
	if n, err := strconv.ParseUint(r.port, 10, 16); err != nil || n == 0 {
		return errors.New("the port must be 1 to 65535")
	}
	return nil
}

func (r *Relay) setAuth(user *url.Userinfo, mechanism, plaintextAuth string) error {
	switch {
	case user == nil && mechanism == "":
		return nil
	case user == nil:
		return errors.New("auth needs a user name and a password")
	case r.user == "" || r.password == "":
		return errors.New("user name and password must both be given, or neither")
	case strings.ContainsRune(r.user+r.password, 0):
		return errors.New("user name and password cannot hold a NUL")
	case plaintextAuth != "" && plaintextAuth != "allow":
		return errors.New("plaintext_auth can only be allow")
	case r.encryption == plaintext && !r.onLoopback() && plaintextAuth == "":
		return errors.New("tls=none would send the credentials unencrypted to another machine; add plaintext_auth=allow if that is what you want")
	}
	r.mechanism = strings.ToUpper(mechanism)
	if r.mechanism != "" && !slices.ContainsFunc(mechanisms(), func(m mechanismInfo) bool { return m.name == r.mechanism }) {
		return errors.New("auth must be plain, login, scram-sha-1 or scram-sha-256")
	}
	return nil
}

// onLoopback reports whether the relay is on this machine, as far as its name
// tells (RFC 6761 section 6.3).
func (r Relay) onLoopback() bool {
	if addr, err := netip.ParseAddr(r.host); err == nil {
		return addr.Unmap().IsLoopback()
	}
	host := strings.ToLower(strings.TrimSuffix(r.host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// Addr gives host:port, the name under which attempts are recorded.
func (r Relay) Addr() string { return net.JoinHostPort(r.host, r.port) }

// String gives the URL with *** for user name and password: some services take
// the same secret for both.
func (r Relay) String() string {
	if r.host == "" {
		return ""
	}
	u := url.URL{Scheme: "smtp", Host: r.Addr()}
	query := url.Values{}
	switch r.encryption {
	case implicitTLS:
		u.Scheme = "smtps"
	case plaintext:
		query.Set("tls", "none")
	}
	if r.mechanism != "" {
		query.Set("auth", strings.ToLower(r.mechanism))
	}
	if r.priority > 0 {
		query.Set("priority", strconv.Itoa(r.priority))
	}
	if r.connections > 0 {
		query.Set("connections", strconv.Itoa(r.connections))
	}
	if r.rate != (Rate{}) {
		query.Set("rate", r.rate.String())
	}
	u.RawQuery = strings.ReplaceAll(query.Encode(), "%2F", "/") // that of a rate, for people
	if r.user == "" {
		return u.String()
	}
	return strings.Replace(u.String(), "://", "://***@", 1)
}

// GoString is String, so that %#v is safe too.
func (r Relay) GoString() string { return r.String() }

// LogValue is String for log/slog.
func (r Relay) LogValue() slog.Value { return slog.StringValue(r.String()) }

// MarshalText is String for encoders such as encoding/json.
func (r Relay) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
