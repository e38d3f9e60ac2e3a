package api_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/api"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

const token = "correct-horse-battery-staple"

func withToken(c *api.Config) { c.Token = token }

func TestToken_onlyTheRightOneOpensV1(t *testing.T) {
	t.Parallel()
	s := start(t, withToken)
	for _, header := range [][]string{
		nil,
		{"Authorization", "Bearer"},
		{"Authorization", "Bearer "},
		{"Authorization", token},
		{"Authorization", "Basic " + token},
		{"Authorization", "Bearer " + token + "x"},
		{"Authorization", "Bearer " + token[:len(token)-1]},
		{"Authorization", "Bearer " + strings.ToUpper(token)},
		{"Authorization", "Bearer " + token, "Authorization", "Bearer " + token},
	} {
		for _, a := range []*answer{s.invite(ada, header...), s.get("/v1/invitations/x", header...), s.get("/v1/messages/x", header...)} {
			a.problem(http.StatusUnauthorized, "unauthorized")
			if got := a.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer") {
				t.Errorf("WWW-Authenticate is %q", got)
			}
		}
	}
	s.invite(ada, "Authorization", "Bearer "+token).want(http.StatusAccepted)
	s.invite(ada, "Authorization", "bearer "+token, "Host", "mail.example.com", "X-Forwarded-For", "203.0.113.7").want(http.StatusAccepted)
	if strings.Contains(s.logs.String(), token) {
		t.Error("the log has the token")
	}
}

func TestToken_isAskedForBeforeTheBodyIsRead(t *testing.T) {
	t.Parallel()
	s := start(t, withToken)
	s.invite("nonsense", "Content-Type", "text/plain").problem(http.StatusUnauthorized, "unauthorized")
}

func TestToken_restIsOpen(t *testing.T) {
	t.Parallel()
	s := start(t, withToken)
	for _, path := range []string{"/livez", "/readyz", "/openapi.json", "/docs"} {
		s.get(path, "Host", "mail.example.com", "X-Forwarded-For", "203.0.113.7").want(http.StatusOK)
	}
}

func TestNew_refusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for _, config := range []api.Config{{}, {Pool: pool, Token: "two words"}, {Pool: pool, Token: "line\n"}, {Pool: pool, Token: "ü"}} {
		if _, err := api.New(config); err == nil {
			t.Errorf("no error for %+v", config)
		} else if config.Token != "" && strings.Contains(err.Error(), config.Token) {
			t.Errorf("the error repeats the token: %v", err)
		}
	}
}

func TestNoToken_onlyThisMachineMayAsk(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for _, host := range []string{"localhost", "LOCALHOST:8025", "127.0.0.1", "127.0.0.1:8025", "127.9.9.9", "[::1]:8025", "[::1]"} {
		s.invite(ada, "Host", host).want(http.StatusAccepted)
	}
	for _, header := range [][]string{
		{"Host", "mail.example.com"}, // DNS rebinding
		{"Host", "localhost.example.com:8025"},
		{"Host", "127.0.0.1.nip.io"},
		{"Host", "192.0.2.1"},
		{"X-Forwarded-For", "127.0.0.1"},
		{"X-Forwarded-For", ""},
		{"X-Forwarded-Host", "localhost"},
		{"X-Real-Ip", "127.0.0.1"},
		{"Forwarded", "for=127.0.0.1"},
		{"Via", "1.1 proxy"},
	} {
		for _, a := range []*answer{s.invite(ada, header...), s.get("/v1/messages/x", header...)} {
			p := a.problem(http.StatusForbidden, "local-only")
			if detail, _ := p["detail"].(string); !strings.Contains(detail, "MAILCRANE_API_TOKEN") {
				t.Errorf("detail is %q", detail)
			}
		}
	}
}

// farListener makes every peer look as if it came from elsewhere.
type farListener struct{ net.Listener }

type farConn struct{ net.Conn }

func (l farListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return farConn{conn}, err
}

func (farConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(203, 0, 113, 7), Port: 4711}
}

func TestNoToken_otherMachinesMayNot(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	far := &service{Server: httptest.NewUnstartedServer(s.Config.Handler), t: t, pool: s.pool, logs: s.logs}
	far.Listener = farListener{far.Listener}
	far.Start()
	t.Cleanup(far.Close)
	far.invite(ada).problem(http.StatusForbidden, "local-only")
	far.get("/livez").want(http.StatusOK)
}

func TestNoToken_pagesOfOtherSitesMayNot(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.invite(ada, "Origin", "https://evil.example").problem(http.StatusForbidden, "cross-origin")
	s.invite(ada, "Sec-Fetch-Site", "cross-site").problem(http.StatusForbidden, "cross-origin")
	s.invite(ada, "Sec-Fetch-Site", "same-origin", "Origin", s.URL).want(http.StatusAccepted)
}

func TestLocalOnly_guardsOtherHandlersByTheSameRules(t *testing.T) {
	t.Parallel()
	page := httptest.NewServer(api.LocalOnly(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })))
	t.Cleanup(page.Close)
	for host, want := range map[string]int{"localhost": http.StatusNoContent, "rebound.example.com": http.StatusForbidden} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, page.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %s", host, response.Status)
		}
	}
}
