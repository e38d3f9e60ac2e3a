package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/api"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// logBuffer is what a server has logged.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// service is an API on a socket.
type service struct {
	*httptest.Server
	t    testing.TB
	pool *pgxpool.Pool
	logs *logBuffer
}

// start serves the API on a database of its own; change alters its config.
func start(t testing.TB, change func(*api.Config)) *service {
	t.Helper()
	s := &service{t: t, logs: &logBuffer{}}
	config := api.Config{Templates: texts{}, Logger: slog.New(slog.NewJSONHandler(s.logs, &slog.HandlerOptions{Level: slog.LevelDebug})), Version: "test"}
	if change != nil {
		change(&config)
	}
	if config.Pool == nil {
		config.Pool = outboxtest.Database(t)
	}
	s.pool = config.Pool
	handler, err := api.New(config)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewUnstartedServer(handler)
	server := api.NewServer(s.Listener.Addr().String(), handler, config.Logger)
	s.Config = server
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// answer is a response that has been read.
type answer struct {
	*http.Response
	t    testing.TB
	body []byte
}

// request sends body, as JSON unless header says otherwise ("-" removes one).
func (s *service) request(method, path, body string, header ...string) *answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		switch {
		case header[i] == "Host":
			r.Host = header[i+1]
		case header[i+1] == "-":
			r.Header.Del(header[i])
		default:
			r.Header.Add(header[i], header[i+1])
		}
	}
	return s.do(r)
}

func (s *service) do(r *http.Request) *answer {
	s.t.Helper()
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return &answer{Response: response, t: s.t, body: body}
}

func (s *service) get(path string, header ...string) *answer {
	s.t.Helper()
	return s.request(http.MethodGet, path, "", header...)
}

func (s *service) invite(body string, header ...string) *answer {
	s.t.Helper()
	return s.request(http.MethodPost, "/v1/groups/42/invitations", body, header...)
}

// want fails the test unless the status is as expected.
func (a *answer) want(status int) *answer {
	a.t.Helper()
	if a.StatusCode != status {
		a.t.Fatalf("%s %s: got %d, want %d: %s", a.Request.Method, a.Request.URL.Path, a.StatusCode, status, a.body)
	}
	return a
}

// document decodes the body.
func (a *answer) document() map[string]any {
	a.t.Helper()
	var document map[string]any
	if err := json.Unmarshal(a.body, &document); err != nil {
		a.t.Fatalf("%s: %v", a.body, err)
	}
	return document
}

// problem decodes the body, which must be a problem document of this type.
func (a *answer) problem(status int, slug string) map[string]any {
	a.t.Helper()
	a.want(status)
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		a.t.Errorf("content type is %q", got)
	}
	p := a.document()
	if p["type"] != "/problems/"+slug || p["status"] != float64(status) || p["title"] == "" || p["detail"] == "" {
		a.t.Errorf("problem is %s, want %d %s", a.body, status, slug)
	}
	if id := a.Header.Get("X-Request-Id"); id == "" || p["request_id"] != id {
		a.t.Errorf("request_id is %v in the body, %q in the header", p["request_id"], id)
	}
	return p
}

// errorAt gives the message of the only error of a problem, which must be at
// location.
func (a *answer) errorAt(location string) string {
	a.t.Helper()
	found, _ := a.document()["errors"].([]any)
	if len(found) != 1 {
		a.t.Fatalf("want one error at %s: %s", location, a.body)
	}
	only, _ := found[0].(map[string]any)
	if only["location"] != location {
		a.t.Errorf("error is at %v, want %s: %s", only["location"], location, a.body)
	}
	rest, inBody := strings.CutPrefix(location, "body")
	if want := "#" + strings.NewReplacer(".", "/", "[", "/", "]", "").Replace(rest); inBody && !strings.HasPrefix(rest, ".lines[") && only["pointer"] != want {
		a.t.Errorf("the pointer to %s is %v", location, only["pointer"])
	}
	message, _ := only["message"].(string)
	return message
}

const ada = `{"email":"ada@example.com","group_name":"Analytical Engine Club","inviter_name":"Charles"}`
