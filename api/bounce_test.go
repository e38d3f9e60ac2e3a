package api_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
)

// sentMessage is a message to ada@example.com that was sent, and its Message-ID.
func (s *service) sentMessage() (id, header string) {
	s.t.Helper()
	m := s.mail(s.relay(), ada)
	return m.messageID, s.value(`SELECT header_message_id FROM mailcrane.attempt`)
}

func (s *service) suppressedNow() string {
	s.t.Helper()
	return s.value(`SELECT coalesce(string_agg(address || ' ' || source, ', ' ORDER BY address), '') FROM mailcrane.suppression`)
}

func TestBounces_suppressAndAreEvents(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	id, header := s.sentMessage()
	const path = "/v1/bounces"
	body := fmt.Sprintf(`{"bounces":[
		{"kind":"soft","message_id":%q,"diagnostic":"full \u0007\n mailbox"},
		{"kind":"hard","header_message_id":"<%s>","source":"dsn","source_id":"1"},
		{"kind":"complaint","address":"Grace@Example.com","at":"2026-01-31T09:00:00Z"},
		{"kind":"hard","address":"alan@example.com","message_id":"01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49"},
		{"kind":"hard","message_id":"01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49"}]}`, id, header)
	a := s.request(http.MethodPost, path, body).want(http.StatusOK)
	s.description().declared(a, path)
	want := fmt.Sprintf(`{"recorded":4,"existing":0,"ignored":1,"results":[{"result":"recorded","message_id":%q},{"result":"recorded","message_id":%q},{"result":"recorded"},{"result":"recorded"},{"result":"ignored"}]}`, id, id)
	if got := strings.TrimSpace(string(a.body)); got != want {
		t.Errorf("%s\ninstead of\n%s", got, want)
	}
	if got := s.suppressedNow(); got != "ada@example.com bounce, alan@example.com bounce, grace@example.com complaint" {
		t.Errorf("suppressed are %s", got)
	}
	again := s.request(http.MethodPost, path, fmt.Sprintf(`{"bounces":[{"kind":"hard","message_id":%q,"source":"dsn","source_id":"1"}]}`, id)).want(http.StatusOK)
	if again.document()["existing"] != 1.0 {
		t.Errorf("%s", again.body)
	}
	if got := s.value(`SELECT string_agg(type || ' ' || detail, ', ' ORDER BY id) FROM mailcrane.event WHERE type IN ('message.bounced', 'message.complained')`); got != "message.bounced soft, message.bounced hard" {
		t.Errorf("events are %s", got)
	}
	if got := s.value(`SELECT diagnostic FROM mailcrane.bounce WHERE kind = 'soft'`); got != "full mailbox" {
		t.Errorf("diagnostic is %q", got)
	}
	if status := s.get("/v1/messages/" + id).document()["status"]; status != "sent" {
		t.Errorf("message is %v", status)
	}
}

func TestBounces_badInput(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	many := strings.Repeat(`{"kind":"hard","address":"a@example.com"},`, 1000) + `{"kind":"hard","address":"a@example.com"}`
	for body, location := range map[string]string{
		`{}`:                            "body",
		`{"bounces":[]}`:                "body.bounces",
		`{"bounces":[` + many + `]}`:    "body.bounces",
		`{"bounces":[{}]}`:              "body.bounces[0]",
		`{"bounces":[{"kind":"no"}]}`:   "body.bounces[0].kind",
		`{"bounces":[{"kind":"hard"}]}`: "body.bounces[0].address",
		`{"bounces":[{"kind":"hard","address":"nobody"}]}`:                                   "body.bounces[0].address",
		`{"bounces":[{"kind":"hard","message_id":"x"}]}`:                                     "body.bounces[0].address",
		`{"bounces":[{"kind":"hard","address":"a@example.com","source":"a\u200bb"}]}`:        "body.bounces[0].source",
		`{"bounces":[{"kind":"hard","address":"a@example.com","source_id":"a\u0000"}]}`:      "body.bounces[0].source_id",
		`{"bounces":[{"kind":"hard","address":"a@example.com","diagnostic":"a\u0000b"}]}`:    "body.bounces[0].diagnostic",
		`{"bounces":[{"kind":"hard","address":"a@example.com","at":"yesterday"}]}`:           "body.bounces[0].at",
		`{"bounces":[{"kind":"hard","address":"a@example.com"},{"kind":"hard"}]}`:            "body.bounces[1].address",
		`{"bounces":[{"kind":"hard","address":"` + strings.Repeat("a", 300) + `@a.com"}]}`:   "body.bounces[0].address",
		`{"bounces":[{"kind":"hard","address":"a@example.com","tenant":"other"}]}`:           "body.bounces[0].tenant",
		`{"bounces":[{"kind":"hard","message_id":"` + strings.Repeat("a", 300) + `"}]}`:      "body.bounces[0].message_id",
		`{"bounces":[{"kind":"hard","address":"a@example.com","Source":"x"}]}`:               "body",
		`{"bounces":[{"kind":"hard","address":"a@example.com","source":"` + long101 + `"}]}`: "body.bounces[0].source",
	} {
		a := s.request(http.MethodPost, "/v1/bounces", body)
		s.description().declared(a, "/v1/bounces")
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
		a.errorAt(location)
	}
	if got := s.suppressedNow(); got != "" {
		t.Errorf("suppressed are %s", got)
	}
}

func TestBounces_longLists(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	var bounces []string
	for i := range 1000 {
		bounces = append(bounces, fmt.Sprintf(`{"kind":"soft","address":"a%d@example.com","diagnostic":%q}`, i, strings.Repeat("450 4.2.2 full. ", 50)))
	}
	a := s.request(http.MethodPost, "/v1/bounces", `{"bounces":[`+strings.Join(bounces, ",")+`]}`).want(http.StatusOK)
	if !strings.HasPrefix(string(a.body), `{"recorded":1000,"existing":0,"ignored":0,`) {
		t.Errorf("%.100s", a.body)
	}
	a = s.request(http.MethodPost, "/v1/bounces", strings.Repeat(" ", 1<<20+1))
	s.description().declared(a, "/v1/bounces")
	a.problem(http.StatusRequestEntityTooLarge, "body-too-large")
}

var long101 = strings.Repeat("a", 101)

func TestProviders_areUnderstood(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]struct{ suppressed, receipt string }{
		"ses-bounce":         {"ada@example.com bounce, grace@example.com bounce", `{"recorded":2,"existing":0,"ignored":0`},
		"ses-complaint":      {"ada@example.com complaint", `{"recorded":1,"existing":0,"ignored":0`},
		"ses-delivery":       {"", `{"recorded":0,"existing":0,"ignored":1`},
		"postmark-bounce":    {"ada@example.com bounce", `{"recorded":1,"existing":0,"ignored":0`},
		"postmark-complaint": {"ada@example.com complaint", `{"recorded":1,"existing":0,"ignored":0`},
		"sendgrid-events":    {"ada@example.com bounce, alan@example.com complaint", `{"recorded":3,"existing":0,"ignored":2`},
		"mailgun-failed":     {"ada@example.com bounce", `{"recorded":1,"existing":0,"ignored":0`},
		"mailgun-complained": {"ada@example.com complaint", `{"recorded":1,"existing":0,"ignored":0`},
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			s := start(t, nil)
			id, header := s.sentMessage()
			sample, err := os.ReadFile("testdata/" + file + ".json")
			if err != nil {
				t.Fatal(err)
			}
			body := strings.ReplaceAll(string(sample), "{message_id}", "<"+header+">")
			name, _, _ := strings.Cut(file, "-")
			bodies := []string{body}
			if name == "ses" { // as SNS wraps it
				wrapped, _ := json.Marshal(map[string]string{"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:us-east-1:1:t", "Message": body})
				bodies = append(bodies, string(wrapped))
			}
			for i, body := range bodies {
				a := s.request(http.MethodPost, "/v1/bounces/"+name, body, "Content-Type", "-", "Content-Type", []string{"application/json", "text/plain; charset=UTF-8"}[i]).want(http.StatusOK)
				s.description().declared(a, "/v1/bounces/{provider}")
				receipt := want.receipt
				if i > 0 { // it is the same again
					receipt = strings.Replace(strings.Replace(receipt, `"recorded":2,"existing":0`, `"recorded":0,"existing":2`, 1), `"recorded":1,"existing":0`, `"recorded":0,"existing":1`, 1)
				}
				if !strings.HasPrefix(string(a.body), receipt) {
					t.Errorf("%s instead of %s", a.body, receipt)
				}
			}
			if got := s.suppressedNow(); got != want.suppressed {
				t.Errorf("suppressed are %q, want %q", got, want.suppressed)
			}
			if want.suppressed == "" {
				return
			}
			if got := s.value(`SELECT string_agg(DISTINCT message_id::text, ' ') FROM mailcrane.bounce WHERE address = 'ada@example.com'`); got != id {
				t.Errorf("message is %q", got)
			}
			if got := s.value(`SELECT string_agg(message_id::text, ' ') FROM mailcrane.event WHERE type IN ('message.bounced', 'message.complained')`); !strings.HasPrefix(got, id) {
				t.Errorf("events are about %q", got)
			}
			if got := s.value(`SELECT count(*) || ' ' || count(source_id) || ' ' || count(*) FILTER (WHERE happened_at < '2026-02-01') FROM mailcrane.bounce`); strings.Count(got, got[:1]) != 3 {
				t.Errorf("bounces, those with an id, those with a time: %s", got)
			}
		})
	}
}

// Whatever is sent in the name of a provider is no fault of ours.
func TestProviders_badInput(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	bodies := []string{
		"", "{", "null", "7", `"x"`, "[]", "[[]]", "[null,7,{}]", "{}", `{"Message":"{"}`, `{"Message":7}`, `{"Message":"[1]"}`, `{"Message":"null"}`,
		`{"notificationType":"Bounce"}`, `{"notificationType":"Bounce","bounce":7}`, `{"notificationType":"Bounce","bounce":{"bouncedRecipients":{}}}`,
		`{"notificationType":"Bounce","bounce":{"bounceType":"Permanent","bouncedRecipients":[null,7,"x",{},{"emailAddress":7},{"emailAddress":"nobody"},{"emailAddress":"a\u0000@example.com"}]}}`,
		`{"notificationType":"Bounce","bounce":{"bouncedRecipients":[{"emailAddress":"g@example.com"}]},"mail":{"headers":[null,7,[],{},{"name":7},{"name":"Message-ID"},{"name":"message-id","value":[]}]}}`,
		`{"RecordType":"Bounce","Type":"HardBounce","Email":"nobody","ID":1e300}`, `{"RecordType":["Bounce"],"Email":"a@example.com"}`,
		`{"RecordType":"Bounce","Type":"HardBounce","Email":"b@example.com","ID":"` + strings.Repeat("x", 300) + `"}`,
		`{"RecordType":"Bounce","Type":"HardBounce","Email":"c@example.com","BouncedAt":"9999999-01-01T00:00:00Z","Details":"` + strings.Repeat("x", 5000) + `"}`,
		`[{"event":"bounce","email":"d@example.com","timestamp":1e300,"smtp-id":"<\u0000@x>"}]`, `[{"event":"bounce","email":"e@example.com","timestamp":-1}]`,
		`{"event-data":[]}`, `{"event-data":{"event":"failed","severity":"permanent","recipient":"f@example.com","timestamp":"soon","message":[]}}`,
		`{"Type":"SubscriptionConfirmation","SubscribeURL":"https://sns.example.com/"}`, strings.Repeat("[", 100) + strings.Repeat("]", 100), `{"a":1,"a":2}`, "\xff",
	}
	tried := 0
	for _, name := range []string{"ses", "postmark", "sendgrid", "mailgun"} {
		for _, body := range bodies {
			a := s.request(http.MethodPost, "/v1/bounces/"+name, body)
			s.description().declared(a, "/v1/bounces/{provider}")
			tried++
			if a.StatusCode >= 500 {
				t.Errorf("%s: %d for %.100q: %s", name, a.StatusCode, body, s.logs.String())
			}
		}
	}
	t.Logf("tried %d bodies", tried)
	s.request(http.MethodPost, "/v1/bounces/nobody", "{}").problem(http.StatusNotFound, "not-found")
	s.request(http.MethodPost, "/v1/bounces/ses", "{}", "Content-Type", "-").problem(http.StatusUnsupportedMediaType, "unsupported-media-type")
	s.request(http.MethodPost, "/v1/bounces/ses", strings.Repeat(" ", 1<<21)).problem(http.StatusRequestEntityTooLarge, "body-too-large")
	if got := s.suppressedNow(); strings.Contains(got, "nobody") {
		t.Errorf("suppressed are %s", got)
	}
}

// A list of more than the database takes at a time, with addresses that are none.
func TestProviders_longLists(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	var events []string
	for i := range 1500 {
		address := fmt.Sprintf("a%d@example.com", i)
		if i%500 == 7 {
			address = "nobody"
		}
		events = append(events, fmt.Sprintf(`{"event":"bounce","type":"bounce","email":%q,"sg_event_id":"%d"}`, address, i))
	}
	a := s.request(http.MethodPost, "/v1/bounces/sendgrid", "["+strings.Join(events, ",")+"]").want(http.StatusOK)
	if !strings.HasPrefix(string(a.body), `{"recorded":1497,"existing":0,"ignored":3,`) {
		t.Errorf("%.100s", a.body)
	}
}

func TestProviders_canSendTheTokenAsAPassword(t *testing.T) {
	t.Parallel()
	s := start(t, withToken)
	key := s.key(outbox.NewAPIKey{Tenant: "acme"})
	basic := func(password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("postmark:"+password))
	}
	const body = `{"RecordType":"SpamComplaint","ID":1,"Email":"ada@example.com"}`
	for password, status := range map[string]int{token: 200, key: 200, "wrong": 401, "": 401, "mc_live_" + long101[:43]: 401} {
		a := s.request(http.MethodPost, "/v1/bounces/postmark", body, "Authorization", basic(password)).want(status)
		s.description().declared(a, "/v1/bounces/{provider}")
		if asked := a.Header.Values("WWW-Authenticate"); status == 401 && (len(asked) != 2 || !strings.HasPrefix(asked[0], "Bearer ") || asked[1] != `Basic realm="mailcrane"`) {
			t.Errorf("asked for %q", asked)
		}
	}
	s.request(http.MethodPost, "/v1/bounces/postmark", body).problem(http.StatusUnauthorized, "unauthorized")
	if got := s.value(`SELECT string_agg(tenant, ' ' ORDER BY tenant) FROM mailcrane.suppression`); got != "acme default" {
		t.Errorf("suppressed for %s", got)
	}
	elsewhere := s.get("/v1/messages", "Authorization", basic(token))
	elsewhere.problem(http.StatusUnauthorized, "unauthorized")
	if asked := elsewhere.Header.Values("WWW-Authenticate"); len(asked) != 1 {
		t.Errorf("asked for %q where a password is not taken", asked)
	}
	s.request(http.MethodPost, "/v1/bounces", `{"bounces":[]}`, "Authorization", basic(token)).problem(http.StatusUnauthorized, "unauthorized")
}

// The bounce of another tenant's message is about an address of one's own only.
func TestBounces_ofAnotherTenant(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	id, _ := s.sentMessage()
	key := bearer(s.key(outbox.NewAPIKey{Tenant: "b"}))
	a := s.request(http.MethodPost, "/v1/bounces", fmt.Sprintf(`{"bounces":[{"kind":"hard","message_id":%q},{"kind":"hard","message_id":%q,"address":"ada@example.com"}]}`, id, id), key...).want(http.StatusOK)
	if !strings.HasPrefix(string(a.body), `{"recorded":1,"existing":0,"ignored":1,"results":[{"result":"ignored"},{"result":"recorded"}]}`) {
		t.Errorf("%s", a.body)
	}
	if got := s.value(`SELECT string_agg(tenant, ' ') FROM mailcrane.suppression`); got != "b" {
		t.Errorf("suppressed for %s", got)
	}
}
