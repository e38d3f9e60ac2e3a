package sender

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// WebhookConfig says how a [Webhook] finds its endpoints. Endpoint and Disable are
// required.
type WebhookConfig struct {
	// Endpoint gives the webhook with an id, and what to sign with; [outbox.ErrNotFound]
	// if it is gone.
	Endpoint func(ctx context.Context, id string) (w outbox.Webhook, secrets [][]byte, err error)
	// Disable tells a webhook nothing more.
	Disable func(ctx context.Context, id, because string) error

	Allow   []netip.Prefix // networks that may be reached although they are not public, by http too; default none
	Timeout time.Duration  // for one request, the answer included; default 15 s
}

// Webhook sends events to endpoints elsewhere as Standard Webhooks says
// (standardwebhooks.com, version 1): signed, with an id that stays the same
// whenever a message is repeated.
//
// It reaches public addresses only, by https and on the ports 443 and 8443, or those
// that are allowed: whoever may make a webhook must not reach what is behind the
// daemon with it. That is looked at when a connection is made, so that no name can
// lead elsewhere later, and redirects are not followed.
type Webhook struct {
	WebhookConfig
	client *http.Client
	places *places
	ports  []uint16 // of public addresses
}

// Each request keeps one of the relay's workers, for as long as the endpoint takes.
const (
	requestsEach = 16
	requestsAll  = 128
)

// NewWebhook makes a sender for the channel [outbox.WebhookChannel].
func NewWebhook(config WebhookConfig) (*Webhook, error) {
	if config.Endpoint == nil || config.Disable == nil {
		return nil, errors.New("webhook: no endpoints")
	}
	if config.Timeout == 0 {
		config.Timeout = 15 * time.Second
	}
	w := &Webhook{WebhookConfig: config, places: newPlaces(requestsEach, requestsAll), ports: webhookPorts()}
	dialer := &net.Dialer{Timeout: 5 * time.Second, ControlContext: w.control}
	w.client = &http.Client{
		Timeout:       config.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{ // of its own: without a proxy, which would dial for us
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    5 * time.Second,
			MaxResponseHeaderBytes: 16 << 10,
			MaxIdleConnsPerHost:    requestsEach,
			IdleConnTimeout:        30 * time.Second,
			ForceAttemptHTTP2:      true,
		},
	}
	return w, nil
}

// errGuarded never names the address: it would tell whoever asks what is there.
var errGuarded = errors.New("the address is not one that a webhook may reach")

// inTheClear marks the context of a request by http.
type inTheClear struct{}

func (w *Webhook) control(ctx context.Context, _, address string, _ syscall.RawConn) error {
	return w.guard(address, ctx.Value(inTheClear{}) != nil)
}

// guard judges the address that is about to be dialled: what goes there in the clear
// goes to the networks that are allowed, and no further.
func (w *Webhook) guard(address string, readable bool) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return errGuarded
	}
	ip := at.Addr().Unmap().WithZone("")
	for _, allowed := range w.Allow {
		if allowed.Contains(ip) {
			return nil
		}
	}
	if readable || !isPublic(ip) || !slices.Contains(w.ports, at.Port()) {
		return errGuarded
	}
	return nil
}

// WebhookProblem says what is wrong with the URL of a webhook to be, or nothing: that
// of one that no message could ever reach. What a name leads to shows only later.
func WebhookProblem(target string, allow []netip.Prefix) string {
	at, err := url.Parse(target)
	if err != nil {
		return "is not a URL"
	}
	w := &Webhook{WebhookConfig: WebhookConfig{Allow: allow}, ports: webhookPorts()}
	readable, port := false, cmp.Or(at.Port(), "443")
	if !strings.EqualFold(at.Scheme, "https") {
		readable, port = true, cmp.Or(at.Port(), "80")
	}
	if _, err := netip.ParseAddr(at.Hostname()); err == nil {
		if w.guard(net.JoinHostPort(at.Hostname(), port), readable) != nil {
			return "leads to an address that a webhook may not reach"
		}
		return ""
	}
	number, err := strconv.ParseUint(port, 10, 16)
	switch {
	case len(allow) > 0:
		return "" // the name may be of one of those networks
	case readable:
		return "does not begin with https://"
	case err != nil || !slices.Contains(w.ports, uint16(number)):
		return "has another port than 443 and 8443"
	default:
		return ""
	}
}

// webhookPorts are those of public addresses.
func webhookPorts() []uint16 { return []uint16{443, 8443} }

// notPublic are the networks of the registries for special purposes (RFC 6890) that
// netip does not know of.
func notPublic() []string {
	return []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
	}
}

func isPublic(ip netip.Addr) bool {
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return false
	}
	for _, network := range notPublic() {
		if netip.MustParsePrefix(network).Contains(ip) {
			return false
		}
	}
	return true
}

// Send makes one request. An answer that is none, or is not one of success, is
// worth another try: receivers tell copies by their id. After 410 that is when somebody
// has enabled the webhook again. While as many are under way as may be, it is an
// [*outbox.Unavailable].
func (w *Webhook) Send(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
	leave, comeBack := w.places.take(m.Recipient)
	if comeBack > 0 {
		return outbox.Reply{}, &outbox.Unavailable{RetryAfter: comeBack, Err: errors.New("the webhook has not answered those before it yet")}
	}
	defer leave()
	hook, secrets, err := w.Endpoint(ctx, m.Recipient)
	switch {
	case errors.Is(err, outbox.ErrNotFound):
		return outbox.Reply{Text: "the webhook is gone"}, &outbox.SendError{Outcome: outbox.Rejected, Err: err}
	case err != nil:
		return outbox.Reply{}, err
	case hook.DisabledAt != nil:
		return outbox.Reply{}, &outbox.Unavailable{RetryAfter: time.Second, Err: errors.New("the webhook is disabled")} // and held then
	case len(secrets) == 0:
		return outbox.Reply{}, errors.New("no secret to sign with: set MAILCRANE_SECRET")
	}
	request, err := w.request(ctx, m, hook.URL, secrets)
	if err != nil {
		return outbox.Reply{}, &outbox.SendError{Outcome: outbox.Rejected, Err: err}
	}
	if err := handover(ctx, request.URL.Host); err != nil {
		return outbox.Reply{}, err
	}
	return w.do(request, hook.ID)
}

func (w *Webhook) do(request *http.Request, id string) (outbox.Reply, error) {
	reply := outbox.Reply{Relay: request.URL.Host}
	// Beyond the handover the answer counts, whoever stops meanwhile.
	response, err := w.client.Do(request.WithContext(context.WithoutCancel(request.Context())))
	if err != nil {
		err = withoutURL(err)
		reply.Text = err.Error()
		return reply, &outbox.SendError{Outcome: outbox.Deferred, Err: err}
	}
	defer response.Body.Close()                                      //nolint:errcheck // it was only read
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 4<<10)) // so that the connection can be used again
	reply.Code, reply.Text = response.StatusCode, http.StatusText(response.StatusCode)
	if response.StatusCode/100 == 2 {
		return reply, nil
	}
	err = fmt.Errorf("the answer is %d", response.StatusCode)
	if response.StatusCode != http.StatusGone {
		return reply, &outbox.SendError{Outcome: outbox.Deferred, Err: err}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(request.Context()), w.Timeout)
	defer cancel()
	return reply, &outbox.SendError{Outcome: outbox.Deferred, Err: errors.Join(err, w.Disable(ctx, id, "it answered 410 Gone"))}
}

// withoutURL leaves out where a request went: that can be as good as a password.
func withoutURL(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	if errors.Is(err, errGuarded) {
		return errGuarded
	}
	return err
}

func (w *Webhook) request(ctx context.Context, m *outbox.Message, target string, secrets [][]byte) (*http.Request, error) {
	event, _ := m.Data["data"].(map[string]any)
	eventID, _ := event["id"].(string)
	body, err := json.Marshal(map[string]any{"type": event["type"], "timestamp": event["created_at"], "data": event})
	if err != nil {
		return nil, fmt.Errorf("write event: %w", err)
	}
	if !strings.HasPrefix(strings.ToLower(target), "https://") {
		ctx = context.WithValue(ctx, inTheClear{}, true)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the URL of the webhook is not one")
	}
	if request.URL.User != nil || request.URL.Scheme != "https" && len(w.Allow) == 0 {
		return nil, errors.New("the URL of the webhook does not begin with https://, or has a user name in it")
	}
	id, now := "evt_"+eventID, strconv.FormatInt(time.Now().Unix(), 10)
	signatures := make([]string, len(secrets))
	for i, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		fmt.Fprintf(mac, "%s.%s.%s", id, now, body)
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "Mailcrane")
	request.Header.Set("webhook-id", id)
	request.Header.Set("webhook-timestamp", now)
	request.Header.Set("webhook-signature", strings.Join(signatures, " "))
	return request, nil
}
