package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/api"
)

// lines gives the log lines with this message.
func (l *logBuffer) lines(t testing.TB, message string) (lines []map[string]any) {
	t.Helper()
	for text := range strings.Lines(l.String()) {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		if line["msg"] == message {
			lines = append(lines, line)
		}
	}
	return lines
}

// logged waits for the one line about a request, which may come after its
// answer.
func (s *service) logged(message string) map[string]any {
	s.t.Helper()
	eventually(s.t, "the log has: "+message, func() bool { return len(s.logs.lines(s.t, message)) > 0 })
	return s.logs.lines(s.t, message)[0]
}

func TestRequestID_isTakenOverIfSane(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	if got := s.get("/livez", "X-Request-Id", "abc-123").Header.Get("X-Request-Id"); got != "abc-123" {
		t.Errorf("request id is %q", got)
	}
	for _, bad := range []string{"", "a b", "ada@example.com", "<script>", strings.Repeat("x", 129), "\xff"} {
		got := s.get("/livez", "X-Request-Id", bad).Header.Get("X-Request-Id")
		if got == bad || len(got) < 20 {
			t.Errorf("request id %q became %q", bad, got)
		}
	}
}

func TestAccessLog_hasOneLineWithoutInput(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.request(http.MethodPost, "/v1/groups/"+secret+"/invitations", ada, "X-Request-Id", "r1", "Idempotency-Key", secret, "User-Agent", secret).want(http.StatusAccepted)
	line := s.logged("http request")
	want := map[string]any{
		"level": "INFO", "method": "POST", "route": "/v1/groups/{group_id}/invitations", "status": 202.0, "request_id": "r1",
	}
	for key, value := range want {
		if line[key] != value {
			t.Errorf("%s is %v, want %v", key, line[key], value)
		}
	}
	keys := []string{"level", "method", "msg", "request_id", "route", "status", "time", "took_ms"}
	for key := range line {
		if !slices.Contains(keys, key) {
			t.Errorf("unexpected key %s", key)
		}
	}
	if strings.Contains(s.logs.String(), secret) || strings.Contains(s.logs.String(), "ada") {
		t.Errorf("the log repeats the input: %s", s.logs.String())
	}
}

func TestAccessLog_unknownPathIsNotRepeated(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.get("/"+secret).problem(http.StatusNotFound, "not-found")
	if line := s.logged("http request"); line["route"] != "none" || strings.Contains(s.logs.String(), secret) {
		t.Errorf("line is %v", line)
	}
}

func TestAnswers_haveSafeHeaders(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for _, a := range []*answer{s.invite(ada), s.get("/v1/messages/x"), s.get("/nothing"), s.get("/readyz")} {
		if a.Header.Get("X-Content-Type-Options") != "nosniff" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s has %v", a.Request.URL.Path, a.Header)
		}
	}
}

func TestMux_errorsAreProblems(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for _, path := range []string{"/", "/nothing", "/v1", "/v1/", "/v1/groups/42", "/v1/groups/42/members", "/openapi.yaml", "/schemas/Problem", "/docs/nothing"} {
		s.get(path).problem(http.StatusNotFound, "not-found")
	}
	for path, allow := range map[string]string{
		"/v1/groups/42/invitations": "POST", "/v1/invitations/x": "GET, HEAD", "/v1/messages/x": "GET, HEAD", "/livez": "GET, HEAD", "/docs": "GET, HEAD",
	} {
		a := s.request(http.MethodDelete, path, "")
		a.problem(http.StatusMethodNotAllowed, "method-not-allowed")
		if got := a.Header.Get("Allow"); got != allow {
			t.Errorf("%s: Allow is %q, want %q", path, got, allow)
		}
	}
	if a := s.get("//v1//messages/x"); a.StatusCode/100 != 3 || a.Header.Get("Location") != "/v1/messages/x" {
		t.Errorf("unclean path gave %d to %q", a.StatusCode, a.Header.Get("Location"))
	}
}

func TestPanic_isAProblemAndLogged(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *api.Config) { c.Ready = func(context.Context) error { panic(secret) } })
	a := s.get("/readyz")
	a.problem(http.StatusInternalServerError, "internal-error")
	if strings.Contains(string(a.body), secret) {
		t.Errorf("the answer has the panic: %s", a.body)
	}
	line := s.logged("http handler panicked")
	if line["request_id"] != a.Header.Get("X-Request-Id") || line["panic"] != secret || !strings.Contains(fmt.Sprint(line["stack"]), "isReady") {
		t.Errorf("line is %v", line)
	}
	if access := s.logged("http request"); access["status"] != 500.0 {
		t.Errorf("access line is %v", access)
	}
}

func TestHealth_followsTheDaemon(t *testing.T) {
	t.Parallel()
	var lost atomic.Bool
	s := start(t, func(c *api.Config) {
		c.Ready = func(context.Context) error {
			if lost.Load() {
				return fmt.Errorf("lease of %s lost", secret)
			}
			return nil
		}
	})
	s.get("/livez").want(http.StatusOK)
	s.get("/readyz").want(http.StatusOK)
	lost.Store(true)
	a := s.get("/readyz")
	a.problem(http.StatusServiceUnavailable, "not-ready")
	if a.Header.Get("Retry-After") == "" || strings.Contains(string(a.body), secret) {
		t.Errorf("answer is %v %s", a.Header, a.body)
	}
	if line := s.logged("not ready"); !strings.Contains(fmt.Sprint(line["error"]), secret) {
		t.Errorf("line is %v", line)
	}
	s.get("/livez").want(http.StatusOK)
}

// withoutDatabase sets a pool that nobody answers.
func withoutDatabase(t testing.TB) func(*api.Config) {
	return func(c *api.Config) {
		pool, err := pgxpool.New(t.Context(), "postgres://nobody:"+secret+"@127.0.0.1:1/nothing")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		c.Pool = pool
	}
}

func TestDatabaseDown_asksToComeBack(t *testing.T) {
	t.Parallel()
	s := start(t, withoutDatabase(t))
	for _, a := range []*answer{s.invite(ada), s.get("/v1/messages/01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21")} {
		a.problem(http.StatusServiceUnavailable, "database-unavailable")
		if a.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		s.silent(a)
	}
	s.get("/readyz").problem(http.StatusServiceUnavailable, "not-ready")
	s.get("/livez").want(http.StatusOK)
	s.logged("http request failed")
}

func TestDatabaseWithoutSchema_isOurFault(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	if _, err := s.pool.Exec(t.Context(), `ALTER FUNCTION mailcrane.invite RENAME TO gone`); err != nil {
		t.Fatal(err)
	}
	a := s.invite(ada)
	a.problem(http.StatusInternalServerError, "internal-error")
	s.silent(a)
}

func TestDatabaseReadOnly_asksToComeBack(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	if _, err := s.pool.Exec(t.Context(), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`); err != nil {
		t.Fatal(err)
	}
	s.pool.Reset()
	s.invite(ada).problem(http.StatusServiceUnavailable, "database-unavailable")
}
