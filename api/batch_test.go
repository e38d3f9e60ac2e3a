package api_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
)

const batchPath = "/v1/groups/{group_id}/invitations/batch"

func (s *service) batch(items []string, header ...string) *answer {
	s.t.Helper()
	return s.batchBody(`{"invitations":[`+strings.Join(items, ",")+`]}`, header...)
}

func (s *service) batchBody(body string, header ...string) *answer {
	s.t.Helper()
	return s.request(http.MethodPost, "/v1/groups/42/invitations/batch", body, header...)
}

// batchReceipt is the answer to a batch.
type batchReceipt struct {
	Created, Existing, Refused int
	Results                    []struct {
		Result    string
		ID        string
		MessageID string `json:"message_id"`
		Errors    []itemError
	}
}

type itemError struct{ Location, Message string }

func (a *answer) receipt() (r batchReceipt) {
	a.t.Helper()
	if err := json.Unmarshal(a.want(http.StatusAccepted).body, &r); err != nil {
		a.t.Fatal(err)
	}
	return r
}

func TestBatch_hasAResultForEachInvitation(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	if _, err := s.pool.Exec(t.Context(), `INSERT INTO mailcrane.suppression (address, reason) VALUES ('eve@example.com', 'asked')`); err != nil {
		t.Fatal(err)
	}
	before := s.invite(`{"email":"grace@example.com"}`).want(http.StatusAccepted).document()
	a := s.batch([]string{
		ada,
		`{"email":"grace@example.com"}`,
		`{"email":"eve@example.com"}`,
		`{"email":"nowhere"}`,                             // the database says
		`{"email":"x@example.com","priority":9}`,          // the description says
		`{"email":"x@example.com","Priority":1}`,          // the names say
		`{"email":"x@example.com","data":{"a":1,"a":2}}`,  // the document says
		`{"email":"x@example.com","data":{"a":"\u0000"}}`, // the storage says
		`{"email":"alan@example.com","idempotency_key":"k","send_after":"2026-01-31T09:00:00Z","expires_in":3600}`,
		`{"email":"Alan@example.com","idempotency_key":"k"}`,
		`{"email":"joan@example.com","idempotency_key":"k"}`, // the key says
	})
	s.description().declared(a, batchPath)
	r := a.receipt()
	if r.Created != 3 || r.Existing != 2 || r.Refused != 6 {
		t.Errorf("counts: %s", a.body)
	}
	var got []string
	for _, result := range r.Results {
		at := ""
		for _, found := range result.Errors {
			at += " " + found.Location
		}
		got = append(got, result.Result+at)
	}
	want := []string{
		"created", "existing", "created", "refused body.invitations[3].email", "refused body.invitations[4].priority", "refused body.invitations[5]",
		"refused body.invitations[6]", "refused body.invitations[7]", "created", "existing",
		"refused body.invitations[10].idempotency_key",
	}
	if !slices.Equal(got, want) {
		t.Errorf("results are %q, want %q", got, want)
	}
	if r.Results[1].ID != before["id"] || r.Results[8].ID != r.Results[9].ID || r.Results[0].ID == r.Results[8].ID {
		t.Errorf("ids: %s", a.body)
	}
	first, err := outbox.GetInvitation(t.Context(), s.pool, r.Results[0].ID)
	if err != nil || first.GroupID != "42" || first.InviterName != "Charles" || first.Messages[0].ID != r.Results[0].MessageID {
		t.Errorf("wrote %+v, %v", first, err)
	}
	if n := count(t, s.pool, `SELECT count(*) FROM mailcrane.invitation`); n != 4 {
		t.Errorf("%d invitations", n)
	}
}

func TestBatch_atomicWritesAllOrNone(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for bad, location := range map[string]string{
		`{"email":"nowhere"}`:                             "body.invitations[1].email",
		`{"email":"x@example.com","priority":9}`:          "body.invitations[1].priority",
		`{"email":"x@example.com","data":{"a":"\u0000"}}`: "body",
	} {
		a := s.request(http.MethodPost, "/v1/groups/42/invitations/batch?atomic=true", `{"invitations":[`+ada+`,`+bad+`]}`)
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
		a.errorAt(location)
		s.description().declared(a, batchPath)
		s.silent(a)
	}
	if n := count(t, s.pool, `SELECT count(*) FROM mailcrane.invitation`); n != 0 {
		t.Errorf("%d invitations were written", n)
	}
	a := s.request(http.MethodPost, "/v1/groups/42/invitations/batch?atomic=true", `{"invitations":[`+ada+`,{"email":"grace@example.com"}]}`)
	if r := a.receipt(); r.Created != 2 {
		t.Errorf("receipt: %s", a.body)
	}
}

func TestBatch_ofMistakesIsAMistake(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	a := s.batch([]string{`{"email":"nowhere"}`, `{"email":7}`, `{}`})
	if found, _ := a.problem(http.StatusUnprocessableEntity, "invalid-input")["errors"].([]any); len(found) != 3 {
		t.Errorf("want three errors: %s", a.body)
	}
}

func TestBatch_whatIsWrongWithTheWhole(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	many := `{"invitations":[` + ada + strings.Repeat(`,{"email":"x@example.com"}`, 1000) + `]}`
	for _, c := range []struct {
		name, body string
		status     int
		slug, at   string
		header     []string
	}{
		{"list", `[` + ada + `]`, 422, "invalid-input", "body", nil},
		{"null", `null`, 422, "invalid-input", "body", nil},
		{"single", ada, 422, "invalid-input", "body", nil},
		{"no field", `{}`, 422, "invalid-input", "body", nil},
		{"another field", `{"` + secret + `":[]}`, 422, "invalid-input", "body", nil},
		{"field in another case", `{"Invitations":[` + ada + `]}`, 422, "invalid-input", "body", nil},
		{"no list", `{"invitations":` + ada + `}`, 422, "invalid-input", "body", nil},
		{"field twice", `{"invitations":[` + ada + `],"invitations":[]}`, 422, "invalid-input", "body", nil},
		{"field after", `{"invitations":[` + ada + `],"atomic":true}`, 422, "invalid-input", "body", nil},
		{"empty list", `{"invitations":[]}`, 422, "invalid-input", "body.invitations", nil},
		{"too many", many, 422, "invalid-input", "body.invitations", nil},
		{"key that is none", `{"invitations":[` + ada + `]}`, 422, "invalid-input", "header.Idempotency-Key", []string{"Idempotency-Key", "k\u200b"}},
		{"nothing", ``, 400, "malformed-body", "body", nil},
		{"text", secret, 400, "malformed-body", "body", nil},
		{"cut off in an item", `{"invitations":[` + ada + `,{"email":"` + secret, 400, "malformed-body", "body", nil},
		{"cut off between items", `{"invitations":[` + ada, 400, "malformed-body", "body", nil},
		{"cut off at the end", `{"invitations":[` + ada + `]`, 400, "malformed-body", "body", nil},
		{"no comma", `{"invitations":[` + ada + ada + `]}`, 400, "malformed-body", "body", nil},
		{"two documents", `{"invitations":[` + ada + `]}{}`, 400, "malformed-body", "body", nil},
		{"text behind", `{"invitations":[` + ada + `]}` + secret, 400, "malformed-body", "body", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := s.batchBody(c.body, c.header...)
			a.t = t
			a.problem(c.status, c.slug)
			a.errorAt(c.at)
			s.description().declared(a, batchPath)
			s.silent(a)
		})
	}
	s.batchBody(`{}`, "Content-Type", "-", "Content-Type", "text/plain").problem(http.StatusUnsupportedMediaType, "unsupported-media-type")
	for group, location := range map[string]string{"%20": "path.group_id", "%ff": "path.group_id", strings.Repeat("x", 256): "path.group_id"} {
		a := s.request(http.MethodPost, "/v1/groups/"+group+"/invitations/batch", `{"invitations":[`+ada+`,`+ada+`]}`)
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
		a.errorAt(location)
	}
	if n := count(t, s.pool, `SELECT count(*) FROM mailcrane.invitation`); n != 0 {
		t.Errorf("%d invitations were written", n)
	}
}

func TestBatch_takesAThousandInOneCall(t *testing.T) {
	t.Parallel()
	s, queries := startCounted(t)
	items := make([]string, 1000)
	for i := range items {
		items[i] = fmt.Sprintf(`{"email":"u%d@example.com","data":{"fill":"%s"}}`, i, strings.Repeat("x", 900))
	}
	before := queries.n.Load()
	first := s.batch(items).receipt()
	if n := queries.n.Load() - before; first.Created != 1000 || n != 1 {
		t.Fatalf("%d created with %d queries", first.Created, n)
	}
	again := s.batch(items).receipt()
	if again.Existing != 1000 {
		t.Errorf("repeated: %d existing", again.Existing)
	}
	for i, result := range first.Results {
		found, err := outbox.GetInvitation(t.Context(), s.pool, result.ID)
		if err != nil || found.Email != fmt.Sprintf("u%d@example.com", i) || again.Results[i].ID != result.ID {
			t.Fatalf("result %d is about %s, %v; repeated %s", i, found.Email, err, again.Results[i].ID)
		}
	}
}

func TestBatch_isReadAsItComes(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	reader, writer := io.Pipe()
	defer writer.Close() //nolint:errcheck // nobody reads
	go func() {
		_, _ = io.WriteString(writer, `{"invitations":[`+ada+strings.Repeat(`,{"email":"x@example.com"}`, 1000)) // and no end
	}()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/groups/42/invitations/batch", reader)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	s.do(r).problem(http.StatusUnprocessableEntity, "invalid-input")
}

func TestBatch_bodyHasLimits(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	fill := func(size int) string {
		head, tail := `{"invitations":[`+ada, `]}`
		return head + strings.Repeat(" ", size-len(head)-len(tail)) + tail
	}
	s.batchBody(fill(1 << 20)).want(http.StatusAccepted)
	s.batchBody(fill(1<<20+1)).problem(http.StatusRequestEntityTooLarge, "body-too-large")
	head := "POST /v1/groups/42/invitations/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	for body, want := range map[string]string{
		"Content-Length: 100\r\n\r\n{\"invitations\":[{":                "HTTP/1.1 408 ",
		"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n": "HTTP/1.1 400 ",
	} {
		if response := s.dial(head + body); !strings.HasPrefix(response, want) {
			t.Errorf("%q: %s", body, response)
		}
	}
}

// oddName is a name behind which huma loses its way.
var oddName = regexp.MustCompile(`[.\[][^"]*" *:`)

// One in a batch fares as it would alone.
func TestBatch_judgesAsForASingleInvitation(t *testing.T) {
	t.Parallel()
	single, s := start(t, nil), start(t, nil)
	d := s.description()
	seed := rand.Uint64()
	seen := map[string]int{}
	for i, body := range malformed(rand.New(rand.NewPCG(seed, 0)), 300) {
		if !json.Valid([]byte(body)) || strings.Contains(body, "idempotency_key") {
			a := s.batch([]string{body})
			d.declared(a, batchPath)
			seen[a.Status[:3]]++
			continue
		}
		alone, a := single.invite(body), s.batch([]string{body, `{"email":"control@example.com"}`})
		d.declared(a, batchPath)
		r := a.receipt()
		if written := alone.StatusCode == http.StatusAccepted; written == (r.Results[0].Result == "refused") {
			t.Errorf("seed %d, body %d %.300q: alone %d %s, in a batch %s", seed, i, body, alone.StatusCode, alone.body, a.body)
		}
		seen[r.Results[0].Result]++
		if alone.StatusCode != http.StatusUnprocessableEntity || oddName.MatchString(body) {
			continue
		}
		var p struct{ Errors []itemError }
		if err := json.Unmarshal(alone.body, &p); err != nil {
			t.Fatal(err)
		}
		for i := range p.Errors {
			p.Errors[i].Location = strings.Replace(p.Errors[i].Location, "body", "body.invitations[0]", 1)
		}
		for _, errs := range [][]itemError{p.Errors, r.Results[0].Errors} {
			slices.SortFunc(errs, func(a, b itemError) int {
				return cmp.Or(cmp.Compare(a.Location, b.Location), cmp.Compare(a.Message, b.Message))
			})
		}
		if !slices.Equal(p.Errors, r.Results[0].Errors) {
			t.Errorf("seed %d, body %d %.300q: alone %s, in a batch %s", seed, i, body, alone.body, a.body)
		}
	}
	t.Logf("seed %d: %v", seed, seen)
	for _, want := range []string{"created", "existing", "refused", "400"} {
		if seen[want] == 0 {
			t.Errorf("no result was %s", want)
		}
	}
}

func BenchmarkBatch(b *testing.B) {
	s := start(b, nil)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		items := make([]string, 1000)
		for i := range items {
			n++
			items[i] = fmt.Sprintf(`{"email":"u%d@example.com","group_name":"Analytical Engine Club","inviter_name":"Charles"}`, n)
		}
		s.batch(items).want(http.StatusAccepted)
	}
}
