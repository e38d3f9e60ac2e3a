package sender

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/mailcrane/mailcrane/outbox"
)

const hookID = "01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21"

// hookTo makes a sender with one endpoint, which may be on this machine.
func hookTo(t *testing.T, url string, change func(*outbox.Webhook, *WebhookConfig)) *Webhook {
	t.Helper()
	hook := outbox.Webhook{ID: hookID, URL: url, Generation: 1}
	config := WebhookConfig{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}
	config.Disable = func(context.Context, string, string) error { return nil }
	if change != nil {
		change(&hook, &config)
	}
	config.Endpoint = func(context.Context, string) (outbox.Webhook, [][]byte, error) {
		return hook, hook.Secrets([]byte("secret of the daemons")), nil
	}
	w, err := NewWebhook(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.CloseIdleConnections)
	return w
}

func hookMessage() *outbox.Message {
	return &outbox.Message{Recipient: hookID, Channel: outbox.WebhookChannel, Data: map[string]any{"data": map[string]any{
		"id": "7-1", "type": "invitation.accepted", "created_at": "2030-01-31T09:00:00Z", "invitation_id": "i",
	}}}
}

// handed counts handovers.
type handed struct{ n atomic.Int32 }

func (h *handed) over(context.Context, string) error { h.n.Add(1); return nil }

func TestWebhook_isSignedAsTheStandardSays(t *testing.T) {
	t.Parallel()
	requests := make(chan *http.Request, 10)
	bodies := make(chan []byte, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests <- r
		bodies <- body
	}))
	t.Cleanup(receiver.Close)
	rotated := time.Now().Add(-time.Hour)
	w := hookTo(t, receiver.URL+"/hook?x=1", func(hook *outbox.Webhook, _ *WebhookConfig) { hook.Generation, hook.RotatedAt = 2, &rotated })
	h := &handed{}
	reply, err := w.Send(t.Context(), hookMessage(), h.over)
	if err != nil || reply.Code != 200 || h.n.Load() != 1 {
		t.Fatalf("%+v, %v, %d handovers", reply, err, h.n.Load())
	}
	r, body := <-requests, <-bodies
	if string(body) != `{"data":{"created_at":"2030-01-31T09:00:00Z","id":"7-1","invitation_id":"i","type":"invitation.accepted"},"timestamp":"2030-01-31T09:00:00Z","type":"invitation.accepted"}` {
		t.Errorf("%s", body)
	}
	if r.Header.Get("webhook-id") != "evt_7-1" || r.Header.Get("Content-Type") != "application/json" || r.URL.RawQuery != "x=1" {
		t.Errorf("%v", r.Header)
	}
	for generation, good := range map[int]bool{0: false, 1: true, 2: true, 3: false} {
		referee, err := standardwebhooks.NewWebhookRaw(outbox.WebhookSecret([]byte("secret of the daemons"), hookID, generation))
		if err != nil {
			t.Fatal(err)
		}
		if err := referee.Verify(body, r.Header); (err == nil) != good {
			t.Errorf("with the secret of generation %d: %v", generation, err)
		}
		if err := referee.Verify(append(body, ' '), r.Header); err == nil {
			t.Error("the signature does not cover the body")
		}
	}
	before := time.Now().Add(-25 * time.Hour)
	if n := len(outbox.Webhook{Generation: 2, RotatedAt: &before}.Secrets(nil)); n != 1 {
		t.Errorf("%d secrets a day after the rotation", n)
	}
}

func TestWebhook_outcomes(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]outbox.Outcome{
		200: outbox.Accepted, 204: outbox.Accepted, 301: outbox.Deferred, 302: outbox.Deferred, 307: outbox.Deferred, 400: outbox.Deferred,
		404: outbox.Deferred, 410: outbox.Deferred, 429: outbox.Deferred, 500: outbox.Deferred, 503: outbox.Deferred,
	} {
		var elsewhere atomic.Int32
		receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/" {
				elsewhere.Add(1)
				return
			}
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
		}))
		disabled := ""
		w := hookTo(t, receiver.URL, func(_ *outbox.Webhook, c *WebhookConfig) {
			c.Disable = func(_ context.Context, id, because string) error { disabled = id + because; return nil }
		})
		_, err := w.Send(t.Context(), hookMessage(), (&handed{}).over)
		if got := outbox.OutcomeOf(err); got != want {
			t.Errorf("%d is %s, want %s", status, got, want)
		}
		if (disabled != "") != (status == 410) || elsewhere.Load() != 0 {
			t.Errorf("%d: disabled %q, %d requests elsewhere", status, disabled, elsewhere.Load())
		}
		receiver.Close()
	}
}

func TestWebhook_troubleIsTriedAgain(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	for _, url := range []string{"http://127.0.0.1:1/secret", "http://" + silent.Addr().String() + "/secret"} {
		w := hookTo(t, url, func(_ *outbox.Webhook, c *WebhookConfig) { c.Timeout = 200 * time.Millisecond })
		reply, err := w.Send(t.Context(), hookMessage(), (&handed{}).over)
		if outbox.OutcomeOf(err) != outbox.Deferred || err == nil {
			t.Errorf("%v", err)
		}
		if strings.Contains(err.Error()+reply.Text, "secret") {
			t.Errorf("the path is in %q, %q", err, reply.Text)
		}
	}
	now := time.Now()
	w := hookTo(t, "http://127.0.0.1:1", func(hook *outbox.Webhook, _ *WebhookConfig) { hook.DisabledAt = &now })
	h := &handed{}
	_, err = w.Send(t.Context(), hookMessage(), h.over)
	if _, waits := errors.AsType[*outbox.Unavailable](err); !waits || h.n.Load() != 0 {
		t.Errorf("disabled: %v", err)
	}
	w = hookTo(t, "http://127.0.0.1:1", nil)
	w.Endpoint = func(context.Context, string) (outbox.Webhook, [][]byte, error) {
		return outbox.Webhook{}, nil, outbox.ErrNotFound
	}
	if _, err := w.Send(t.Context(), hookMessage(), h.over); outbox.OutcomeOf(err) != outbox.Rejected || h.n.Load() != 0 {
		t.Errorf("gone: %v", err)
	}
}

// However an address is written, what is not public is not reached.
func TestWebhook_reachesNothingThatIsNotPublic(t *testing.T) {
	t.Parallel()
	var reached atomic.Int32
	inside := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	t.Cleanup(inside.Close)
	_, port, err := net.SplitHostPort(inside.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, host := range []string{
		"127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "localhost", "localhost.", "LOCALHOST", "0", "0.0.0.0",
		"127.0.0.1.", "127.255.255.254", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]",
		"[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "[fe80::1%25lo]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[2001:db8::1]", "[fec0::1]",
		"10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.127.255.255", "100.100.100.200",
		"192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "①②⑦.0.0.1", "127。0。0。1", "user@127.0.0.1", "example.com@127.0.0.1", "metadata.google.internal.localhost",
	} {
		for _, url := range []string{"https://" + host + ":" + port + "/", "https://" + host + ":443/", "http://" + host + ":" + port + "/", "http://" + host + "/"} {
			tried++
			w := hookTo(t, url, func(_ *outbox.Webhook, c *WebhookConfig) { c.Allow, c.Timeout = nil, 2*time.Second })
			w.client.Transport.(*http.Transport).TLSClientConfig = inside.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
			w.ports = append(w.ports, inside.Listener.Addr().(*net.TCPAddr).AddrPort().Port()) // so that the address alone is in the way
			if _, err := w.Send(t.Context(), hookMessage(), (&handed{}).over); err == nil {
				t.Errorf("%s was reached", url)
			}
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("%d of %d requests came through", n, tried)
	}
	t.Logf("tried %d URLs", tried)
}

func TestWebhook_guardJudgesAddresses(t *testing.T) {
	t.Parallel()
	w := hookTo(t, "https://example.com", func(_ *outbox.Webhook, c *WebhookConfig) {
		c.Allow = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	})
	for address, good := range map[string]bool{
		"93.184.215.14:443": true, "93.184.215.14:8443": true, "93.184.215.14:80": false, "93.184.215.14:22": false, "[2606:2800:21f::1]:443": true,
		"10.1.2.3:80": true, "[::ffff:10.1.2.3]:6379": true, "10.2.0.1:443": false, "[::ffff:169.254.169.254]:443": false, "[64:ff9b::a01:203]:443": false,
		"0.1.2.3:443": false, "192.0.0.1:443": false, "192.0.2.1:443": false, "192.88.99.1:443": false, "198.19.255.255:443": false, "198.51.100.1:443": false,
		"203.0.113.1:443": false, "224.0.0.1:443": false, "240.0.0.1:443": false, "255.255.255.255:443": false, "[::1.2.3.4]:443": false, "[::ffff:0:127.0.0.1]:443": false,
		"[64:ff9b:1::1]:443": false, "[100::1]:443": false, "[2001::1]:443": false, "[2001:db8::1]:443": false, "[3fff::1]:443": false, "[5f00::1]:443": false,
		"[fec0::1]:443": false, "[ff02::1]:443": false, "[fe80::1]:443": false, "[fc00::1]:443": false,
		"[2002:a01:203::1]:443": false, "100.64.0.1:443": false, "100.128.0.1:443": true, "172.15.0.1:443": true, "172.16.0.1:443": false, "x": false, "127.0.0.1": false,
	} {
		if err := w.guard(address, false); (err == nil) != good {
			t.Errorf("%s: %v", address, err)
		}
		if err := w.guard(address, true); (err == nil) != (good && strings.Contains(address, "10.1.2.3")) {
			t.Errorf("%s in the clear: %v", address, err)
		}
	}
}

func TestWebhookProblem(t *testing.T) {
	t.Parallel()
	ours := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/32")}
	for target, want := range map[string][2]bool{ // good without networks that are allowed, and with them
		"https://example.com/x": {true, true}, "https://example.com:8443": {true, true}, "HTTPS://example.com": {true, true},
		"https://example.com:25": {false, true}, "http://example.com": {false, true}, "http://x:25/": {false, true},
		"https://93.184.215.14": {true, true}, "https://93.184.215.14:25": {false, false}, "http://93.184.215.14:443": {false, false},
		"https://10.1.2.3:25": {false, true}, "http://10.1.2.3": {false, true}, "http://10.2.2.3": {false, false}, "https://127.0.0.1": {false, false},
		"https://[::ffff:10.1.2.3]": {false, true}, "https://[fd00:1::7]:99": {false, true}, "https://[::1]": {false, false}, "https://169.254.169.254/": {false, false},
	} {
		for i, allow := range [][]netip.Prefix{nil, ours} {
			if problem := WebhookProblem(target, allow); (problem == "") != want[i] {
				t.Errorf("%s, %v: %q", target, allow, problem)
			}
		}
	}
}

// That a network of ours may be reached by http allows nobody to send elsewhere what
// everybody on the way can read.
func TestWebhook_publicAddressesAreNotReachedInTheClear(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]bool{"http://93.184.215.14:443/": true, "HTTP://93.184.215.14:8443/": true, "https://93.184.215.14:443/": false} {
		w := hookTo(t, url, func(_ *outbox.Webhook, c *WebhookConfig) { c.Timeout = 2 * time.Second })
		w.client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if err := w.control(ctx, network, address, nil); err != nil {
				return nil, err
			}
			return nil, errors.New("nothing leaves this machine")
		}
		if _, err := w.Send(t.Context(), hookMessage(), (&handed{}).over); err == nil || errors.Is(err, errGuarded) != want {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// A name that leads to a public address when it is looked at, and to this machine
// when it is dialled: what is dialled counts.
func TestWebhook_rebindingLeadsNowhere(t *testing.T) {
	t.Parallel()
	var reached atomic.Int32
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	t.Cleanup(inside.Close)
	w := hookTo(t, "https://rebind.example:8443/", func(_ *outbox.Webhook, c *WebhookConfig) { c.Allow, c.Timeout = nil, 2*time.Second })
	var asked atomic.Int32
	transport := w.client.Transport.(*http.Transport)
	guarded := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		if asked.Add(1) == 1 {
			return nil, errors.New("the public address did not answer")
		}
		return guarded(ctx, network, inside.Listener.Addr().String()) // what the name means now
	}
	w.ports = append(w.ports, inside.Listener.Addr().(*net.TCPAddr).AddrPort().Port())
	for n := range 3 {
		if _, err := w.Send(t.Context(), hookMessage(), (&handed{}).over); n > 0 && !errors.Is(err, errGuarded) {
			t.Errorf("it was not the guard: %v", err)
		}
	}
	if reached.Load() != 0 || asked.Load() != 3 {
		t.Errorf("%d requests came through, %d dialled", reached.Load(), asked.Load())
	}
}
