package api_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// secret stands for a value that nobody but its owner may see again.
const secret = "hunter2-Zx81"

// silent fails the test if an answer, or the log, repeats what was sent.
func (s *service) silent(a *answer) {
	s.t.Helper()
	for _, part := range []string{secret, "ada@example.com", "invalid character", "2030-01-31", ":1e3", "1e999"} {
		if strings.Contains(string(a.body), part) {
			s.t.Errorf("the answer repeats the input: %s", a.body)
		}
		if strings.Contains(s.logs.String(), part) {
			s.t.Errorf("the log repeats the input: %s", s.logs.String())
		}
	}
}

func TestInvite_databaseJudgesTheAddress(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for _, email := range []string{"Ada <ada@example.com>", "ada@localhost", "ada", "a b@example.com", "ada@example.com\\r\\nBcc: x@example.com", "", secret + "@"} {
		a := s.invite(`{"email":"` + email + `"}`)
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
		if message := a.errorAt("body.email"); message == "" {
			t.Errorf("%q: no message", email)
		}
		s.silent(a)
	}
	if n := count(t, s.pool, `SELECT count(*) FROM mailcrane.invitation`); n != 0 {
		t.Errorf("%d invitations were written", n)
	}
}

func TestInvite_saysWhereTheMistakesAre(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	long := strings.Repeat("x", 256)
	tests := []struct {
		name, path, body, location string
		header                     []string
	}{
		{"group id", "/v1/groups/" + long + "/invitations", ada, "path.group_id", nil},
		{"group id of blanks", "/v1/groups/%20/invitations", ada, "path.group_id", nil},
		{"group id not UTF-8", "/v1/groups/%ff/invitations", ada, "path.group_id", nil},
		{"key", "", ada, "header.Idempotency-Key", []string{"Idempotency-Key", long}},
		{"key not UTF-8", "", ada, "header.Idempotency-Key", []string{"Idempotency-Key", "\xff"}},
		{"key with a zero-width character", "", ada, "header.Idempotency-Key", []string{"Idempotency-Key", "k\u200b"}},
		{"group name", "", `{"email":"ada@example.com","group_name":"` + secret + ` https://example.com"}`, "body.group_name", nil},
		{"link", "", `{"email":"ada@example.com","link":"javascript:` + secret + `"}`, "body.link", nil},
		{"locale", "", `{"email":"ada@example.com","locale":"` + secret + `;"}`, "body.locale", nil},
		{"data", "", `{"email":"ada@example.com","data":"` + secret + `"}`, "body.data", nil},
		{"send_after", "", `{"email":"ada@example.com","send_after":"` + secret + `"}`, "body.send_after", nil},
		{"send_after without zone", "", `{"email":"ada@example.com","send_after":"2030-01-31T09:00:00"}`, "body.send_after", nil},
		{"send_after far ahead", "", `{"email":"ada@example.com","send_after":"9999-01-31T09:00:00Z"}`, "body.send_after", nil},
		{"expires_in", "", `{"email":"ada@example.com","expires_in":"` + secret + `"}`, "body.expires_in", nil},
		{"expires_in of nothing", "", `{"email":"ada@example.com","expires_in":0}`, "body.expires_in", nil},
		{"expires_in for ever", "", `{"email":"ada@example.com","expires_in":1e30}`, "body.expires_in", nil},
		{"expires_in with an exponent", "", `{"email":"ada@example.com","expires_in":1e3}`, "body", nil},
		{"priority", "", `{"email":"ada@example.com","priority":5}`, "body.priority", nil},
		{"email is missing", "", `{"group_name":"` + secret + `"}`, "body", nil},
		{"email is a list", "", `{"email":["ada@example.com"]}`, "body.email", nil},
		{"email is null", "", `{"email":null}`, "body.email", nil},
		{"body is a list", "", `["` + secret + `"]`, "body", nil},
		{"body is null", "", `null`, "body", nil},
		{"character U+0000", "", `{"email":"ada@example.com","data":{"a":"\u0000` + secret + `"}}`, "body", nil},
		{"query", "/v1/groups/42/invitations?tenant=" + secret, ada, "query.tenant", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.path == "" {
				test.path = "/v1/groups/42/invitations"
			}
			a := s.request(http.MethodPost, test.path, test.body, test.header...)
			a.t = t
			a.problem(http.StatusUnprocessableEntity, "invalid-input")
			a.errorAt(test.location)
			s.silent(a)
		})
	}
	if n := count(t, s.pool, `SELECT count(*) FROM mailcrane.invitation`); n != 0 {
		t.Errorf("%d invitations were written", n)
	}
}

func TestInvite_allMistakesAreListed(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	a := s.invite(`{"email":"ada","link":"x","locale":"?"}`)
	if found, _ := a.problem(http.StatusUnprocessableEntity, "invalid-input")["errors"].([]any); len(found) != 3 {
		t.Errorf("want three errors: %s", a.body)
	}
}

func TestInvite_namesMustMatchExactly(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for body, location := range map[string]string{
		`{"EMAIL":"ada@example.com"}`:                             "body",
		`{"email":"ada@example.com","Email":"eve@example.com"}`:   "body",
		`{"email":"ada@example.com","Group_Name":"x"}`:            "body",
		`{"email":"ada@example.com","colour":"` + secret + `"}`:   "body.colour",
		`{"email":"ada@example.com","tenant":"other"}`:            "body.tenant",
		`{"email":"ada@example.com","` + secret + `@x.y":"data"}`: "body",
	} {
		a := s.invite(body)
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
		a.errorAt(location)
		s.silent(a)
	}
}

func TestInvite_malformedBodyIsABadRequest(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for name, body := range map[string]string{
		"empty": "", "blank": " ", "cut off": `{"email":"` + secret, "text": secret, "two documents": ada + ada,
		"comma": `{"email":"ada@example.com",}`, "not UTF-8": "{\"email\":\"\xff\"}", "number out of range": `{"data":{"a":1e999}}`,
		"name twice":            `{"email":"ada@example.com","email":"` + secret + `"}`,
		"name twice deep":       `{"email":"ada@example.com","data":{"a":[{"b":1,"b":2}]}}`,
		"name twice in escapes": `{"email":"ada@example.com","\u0065mail":"` + secret + `"}`,
		"deep":                  `{"email":"ada@example.com","data":{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}}`,
	} {
		t.Run(name, func(t *testing.T) {
			a := s.invite(body)
			a.t = t
			a.problem(http.StatusBadRequest, "malformed-body")
			s.silent(a)
		})
	}
}

func TestInvite_sameNameInDifferentObjectsIsFine(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.invite(`{"email":"ada@example.com","data":{"email":"x","a":{"email":"y"},"b":[{"email":"z"},{"email":"email"}],"email2":"email"}}`).want(http.StatusAccepted)
}

func TestInvite_wantsJSONThatSaysSo(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for _, contentType := range []string{
		"-", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "application/json; charset=latin1", "json", secret,
	} {
		a := s.invite(ada, "Content-Type", "-", "Content-Type", contentType)
		a.problem(http.StatusUnsupportedMediaType, "unsupported-media-type")
		if detail := fmt.Sprint(a.document()["detail"]); !strings.Contains(detail, "curl --json") || !strings.Contains(detail, "-H 'Content-Type: application/json'") {
			t.Errorf("detail is %s", detail)
		}
		s.silent(a)
	}
	for _, contentType := range []string{"application/json", "Application/JSON", "application/json ; charset=UTF-8", "application/vnd.api+json"} {
		s.invite(ada, "Content-Type", "-", "Content-Type", contentType).want(http.StatusAccepted)
	}
}

func TestInvite_bodyOver64KiBIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	fill := func(size int) string {
		head, tail := `{"email":"ada@example.com","data":{"a":"`, `"}}`
		return head + strings.Repeat("x", size-len(head)-len(tail)) + tail
	}
	s.invite(fill(64 << 10)).want(http.StatusAccepted)
	s.invite(fill(64<<10+1)).problem(http.StatusRequestEntityTooLarge, "body-too-large")

	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/groups/42/invitations", io.MultiReader(strings.NewReader(fill(1<<20))))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json") // chunked: the length is not announced
	s.do(r).problem(http.StatusRequestEntityTooLarge, "body-too-large")
}

// dial talks HTTP by hand.
func (s *service) dial(request string) string {
	s.t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(s.t.Context(), "tcp", s.Listener.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the test is over
	stop := context.AfterFunc(s.t.Context(), func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		s.t.Fatal(err)
	}
	response, err := io.ReadAll(conn)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(response)
}

func TestInvite_brokenUploadIsTheClientsFault(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	response := s.dial("POST /v1/groups/42/invitations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
		"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n")
	if !strings.HasPrefix(response, "HTTP/1.1 400 ") || !strings.Contains(response, "/problems/malformed-body") {
		t.Errorf("response is %s", response)
	}
}

func TestInvite_bodyThatDoesNotComeTimesOut(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	response := s.dial("POST /v1/groups/42/invitations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{")
	if !strings.HasPrefix(response, "HTTP/1.1 408 ") || !strings.Contains(response, "/problems/slow-body") {
		t.Errorf("response is %s", response)
	}
}

// Where nothing is to be sent, nothing has to be said about what it is.
func TestBody_mayBeMissingWithItsType(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	created := s.request(http.MethodPost, "/v1/groups/42/invitations", `{"email":"ada@example.com"}`)
	path := created.Header.Get("Location") + "/revoke"
	s.request(http.MethodPost, path, "{", "Content-Type", "-").problem(http.StatusUnsupportedMediaType, "unsupported-media-type")
	if a := s.request(http.MethodPost, path, "", "Content-Type", "-"); a.StatusCode != http.StatusOK {
		t.Errorf("%d", a.StatusCode)
	}
	s.request(http.MethodPost, "/v1/groups/42/invitations", "", "Content-Type", "-").problem(http.StatusUnsupportedMediaType, "unsupported-media-type")
}

// A megabyte may take a while.
func TestBatch_bodyMayTakeItsTime(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	body, upload := io.Pipe()
	go func() {
		_, _ = io.WriteString(upload, `{"invitations":[`)
		<-time.After(6 * time.Second) // longer than a small body may take
		_, _ = io.WriteString(upload, `{"email":"ada@example.com"}]}`)
		_ = upload.Close()
	}()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/groups/42/invitations/batch", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	s.do(r).want(http.StatusAccepted)
}
