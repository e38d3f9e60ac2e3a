package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/api"
	"github.com/mailcrane/mailcrane/outbox"
)

// driver makes requests as the description says they are made.
type driver struct {
	*service
	openAPI
	hop   *smtpLike
	n     int
	tried int
}

// call is a request to an operation that is right in every part.
type call struct {
	operation
	method, path string // as described
	in           map[string]string
	media        string
	body         any // nil: none
	header       []string
}

func startDriver(t testing.TB) *driver {
	s := start(t, func(c *api.Config) { c.Secret = []byte("0123456789abcdef0123456789abcdef") })
	d := &driver{service: s, openAPI: s.description(), hop: s.relay()}
	d.execute(`DELETE FROM mailcrane.quota`) // the examples are all about one address
	d.execute(`UPDATE mailcrane.policy SET resend_after = '0'`)
	return d
}

func (d *driver) execute(statement string, args ...any) {
	d.t.Helper()
	if _, err := d.pool.Exec(d.t.Context(), statement, args...); err != nil {
		d.t.Fatal(err)
	}
}

// calls are right requests to all operations, with the examples of the description.
func (d *driver) calls() (all []call) {
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(d.Paths[path])) {
			c := call{operation: d.Paths[path][method], method: strings.ToUpper(method), path: path, in: map[string]string{}}
			for _, p := range c.Parameters {
				if p.In == "path" {
					c.in[p.Name] = fmt.Sprint(p.Schema.Examples[0])
				}
			}
			medias := slices.Sorted(maps.Keys(c.RequestBody.Content))
			if len(medias) > 0 {
				c.media, c.body = medias[0], c.RequestBody.Content[medias[0]].Example
			}
			all = append(all, c)
		}
	}
	return all
}

// text is a body as it is sent.
func (c call) text(body any) string {
	if text, isText := body.(string); isText && !strings.HasSuffix(c.media, "json") || body == nil {
		return text
	}
	document, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return string(document)
}

// send makes the request, and wants an answer that is described and not our fault.
func (d *driver) send(c call, query, body string, header ...string) *answer {
	d.t.Helper()
	at := c.path
	for name, value := range c.in {
		at = strings.ReplaceAll(at, "{"+name+"}", value)
	}
	if c.media != "" && c.media != "application/json" && !slices.Contains(header, "Content-Type") {
		header = append(header, "Content-Type", "-", "Content-Type", c.media)
	}
	if c.media == "" && body == "" {
		header = append(header, "Content-Type", "-")
	}
	a := d.request(c.method, at+query, body, append(slices.Clone(c.header), header...)...)
	d.tried++
	d.declared(a, c.path)
	if a.StatusCode >= http.StatusInternalServerError {
		d.t.Errorf("%s %s %.200q: %d", c.method, at+query, body, a.StatusCode)
	}
	return a
}

// wanted is the status of success, of which each operation has one.
func (c call) wanted(t testing.TB) int {
	var status int
	for declared := range c.Responses {
		if declared < "300" {
			if status != 0 {
				t.Errorf("%s can succeed in several ways", c.OperationID)
			}
			_, _ = fmt.Sscan(declared, &status)
		}
	}
	return status
}

// prepare makes what a request is about, and puts the ids of that into it.
func (d *driver) prepare(c *call) {
	d.n++
	ada := fmt.Sprintf(`{"email":"u%d@example.com"`, d.n)
	later := ada + `,"send_after":"` + time.Now().Add(time.Hour).Format(time.RFC3339) + `"}`
	invited := func(body string) (id, messageID string) {
		r := d.invite(body).want(http.StatusAccepted).document()
		return r["id"].(string), r["message_id"].(string)
	}
	switch c.OperationID {
	case "acceptByToken", "declineByToken", "verifyToken":
		c.body = map[string]any{"token": d.mail(d.hop, ada+"}").token}
	case "resendInvitation":
		c.in["id"] = d.mail(d.hop, ada+"}").id
	case "changeAddress":
		c.in["id"], _ = invited(later)
		d.execute(`UPDATE mailcrane.invitation SET status = 'revoked', finished_at = now() WHERE email = 'ada@example.com' AND status = 'pending'`)
	case "replayWebhook":
		c.in["id"], _ = d.request(http.MethodPost, "/v1/webhooks", `{"url":"https://example.com"}`).want(http.StatusCreated).document()["id"].(string)
		c.body = map[string]any{"after": d.position()}
	case "unsuppress":
		d.request(http.MethodPost, "/v1/suppressions", `{"address":"`+c.in["address"]+`"}`).want(http.StatusOK)
	case "retryMessage":
		_, c.in["id"] = invited(later)
		d.execute(`SELECT mailcrane.cancel_message($1::text::uuid)`, c.in["id"])
		d.execute(`UPDATE mailcrane.message SET status = 'failed', reason = 'test' WHERE id = $1::text::uuid`, c.in["id"])
	case "releaseMessage", "markMessageSent":
		_, c.in["id"] = invited(later)
		d.execute(`UPDATE mailcrane.message SET status = 'held', held_by = 'unknown' WHERE id = $1::text::uuid`, c.in["id"])
		d.execute(`INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, outcome, was_unknown, finished_at)
			SELECT id, 1, job_id, mailcrane.uuid_v7(), 'unknown', true, now() FROM mailcrane.message WHERE id = $1::text::uuid`, c.in["id"])
	default:
		if _, hasID := c.in["id"]; !hasID {
			return
		}
		switch kind := strings.Split(c.path, "/")[2]; kind {
		case "invitations":
			c.in["id"], _ = invited(later)
		case "messages":
			_, c.in["id"] = invited(later)
		case "webhooks":
			c.in["id"], _ = d.request(http.MethodPost, "/v1/webhooks", `{"url":"https://example.com"}`).want(http.StatusCreated).document()["id"].(string)
		case "keys":
			c.in["id"], _ = d.request(http.MethodPost, "/v1/keys", fmt.Sprintf(`{"name":"key %d"}`, d.n)).want(http.StatusCreated).document()["id"].(string)
		default:
			d.t.Fatalf("%s: nobody makes any %s", c.OperationID, kind)
		}
	}
}

// position is the place of an event that there is.
func (d *driver) position() string {
	next, _ := d.get("/v1/events?limit=1").want(http.StatusOK).document()["next"].(string)
	return next
}

// What the description gives as an example works, for every operation there is.
func TestContract_examplesSucceed(t *testing.T) {
	t.Parallel()
	d := startDriver(t)
	for _, c := range d.calls() {
		want := c.wanted(t)
		variants := []func(*call) string{func(*call) string { return "" }}
		for _, p := range c.Parameters {
			switch p.In {
			case "query":
				for _, value := range append(append(slices.Clone(p.Schema.Examples), p.Schema.Enum...), p.Schema.Default) {
					if value == nil {
						continue
					}
					if c.OperationID == "listEvents" && p.Name == "after" {
						value = d.position()
					}
					variants = append(variants, func(*call) string { return "?" + p.Name + "=" + url.QueryEscape(fmt.Sprint(value)) })
				}
				if p.Schema.Type == "boolean" {
					variants = append(variants, func(*call) string { return "?" + p.Name + "=true" })
				}
			case "header":
				variants = append(variants, func(c *call) string {
					c.header = []string{p.Name, fmt.Sprint(p.Example, " of ", c.OperationID)}
					return ""
				})
			}
		}
		for media := range c.RequestBody.Content {
			variants = append(variants, func(c *call) string {
				c.media, c.body = media, c.RequestBody.Content[media].Example
				return ""
			})
		}
		for _, variant := range variants {
			c := c
			c.in = maps.Clone(c.in)
			query := variant(&c)
			d.prepare(&c)
			a := d.send(c, query, c.text(c.body))
			if a.StatusCode != want {
				t.Errorf("%s%s: %d instead of %d: %s", c.OperationID, query, a.StatusCode, want, a.body)
				continue
			}
			if want == http.StatusCreated || want == http.StatusAccepted {
				d.get(a.Header.Get("Location")).want(http.StatusOK)
			}
		}
	}
	t.Logf("%d right requests", d.tried)
	if n := len(d.calls()); d.tried < 2*n {
		t.Errorf("only %d requests to %d operations", d.tried, n)
	}
}

// Who is not let through learns nothing, whatever the operation, and a database that is
// away is no riddle.
func TestContract_nobodyGetsThrough(t *testing.T) {
	t.Parallel()
	d := startDriver(t)
	guarded, down := start(t, withToken), start(t, withoutDatabase(t))
	weak := guarded.key(outbox.NewAPIKey{Scopes: []string{"events:read"}})
	for _, c := range d.calls() {
		if !strings.HasPrefix(c.path, "/v1/") {
			continue
		}
		at := func(s *service) *driver { return &driver{service: s, openAPI: d.openAPI} }
		at(guarded).send(c, "", c.text(c.body)).want(http.StatusUnauthorized)
		if c.OperationID != "listEvents" {
			c := c
			c.header = bearer(weak)
			at(guarded).send(c, "", c.text(c.body)).want(http.StatusForbidden)
		}
		if slices.Contains([]string{"listTemplates", "previewTemplate"}, c.OperationID) {
			continue // these ask no database
		}
		path := c.path
		for name, value := range c.in {
			path = strings.ReplaceAll(path, "{"+name+"}", value)
		}
		header := []string{}
		if c.media == "text/csv" {
			header = []string{"Content-Type", "-", "Content-Type", c.media}
		}
		a := down.request(c.method, path, c.text(c.body), header...).want(http.StatusServiceUnavailable)
		d.declared(a, c.path)
	}
}
