package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/api"
)

// Whatever is sent to whatever takes a body, the answer is one that is described, and
// never that something is wrong here.
func FuzzBodies(f *testing.F) {
	s := start(f, func(c *api.Config) { c.Secret = []byte("0123456789abcdef0123456789abcdef") })
	d := s.description()
	paths := []struct{ path, described string }{
		{"/v1/groups/42/invitations", "/v1/groups/{group_id}/invitations"},
		{"/v1/groups/42/invitations/batch?atomic=true", "/v1/groups/{group_id}/invitations/batch"},
		{"/v1/groups/42/invitations/batch", "/v1/groups/{group_id}/invitations/batch"},
		{"/v1/messages", "/v1/messages"},
		{"/v1/invitations/accept", "/v1/invitations/accept"},
		{"/v1/invitations/01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21/change-address", "/v1/invitations/{id}/change-address"},
		{"/v1/suppressions", "/v1/suppressions"},
		{"/v1/bounces", "/v1/bounces"},
		{"/v1/bounces/ses", "/v1/bounces/{provider}"},
		{"/v1/bounces/postmark", "/v1/bounces/{provider}"},
		{"/v1/bounces/sendgrid", "/v1/bounces/{provider}"},
		{"/v1/bounces/mailgun", "/v1/bounces/{provider}"},
		{"/v1/templates/verify/preview", "/v1/templates/{name}/preview"},
		{"/v1/keys", "/v1/keys"},
		{"/v1/webhooks", "/v1/webhooks"},
	}
	for i, body := range []string{
		ada, `{"invitations":[` + ada + `]}`, `{"invitations":[` + ada + `,{}]}`, `{"recipient":"ada@example.com","template":"verify","data":{"a":[1,null]}}`,
		tokenBody(strings.Repeat("A", 43)), `{"email":"ada@example.com"}`, `{"address":"ada@example.com","reason":"asked"}`,
		`{"bounces":[{"kind":"hard","address":"ada@example.com","at":"2026-01-31T09:00:00Z"}]}`,
		`{"Message":"{\"notificationType\":\"Bounce\",\"bounce\":{\"bounceType\":\"Permanent\",\"bouncedRecipients\":[{\"emailAddress\":\"a@example.com\"}]}}"}`,
		`{"RecordType":"Bounce","Type":"HardBounce","ID":1,"Email":"ada@example.com","BouncedAt":"2026-01-31T09:00:00Z"}`,
		`[{"event":"bounce","email":"ada@example.com","timestamp":1769850001,"sg_event_id":"b"}]`,
		`{"event-data":{"event":"failed","severity":"permanent","id":"g","timestamp":1769850000.1,"recipient":"ada@example.com"}}`,
		`{"locale":"de","data":{"link":"https://example.com"},"expires_at":"2030-01-31T09:00:00Z"}`,
		`{"name":"a","scopes":["messages:read"],"expires_at":"2035-01-31T09:00:00Z"}`, `{"url":"https://example.com","types":["message.*"]}`,
	} {
		f.Add(byte(i), body, "")
		f.Add(byte(i), body, "key")
	}
	f.Fuzz(func(t *testing.T, which byte, body, key string) {
		at := paths[int(which)%len(paths)]
		header := []string{}
		if key != "" && !strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			header = append(header, "Idempotency-Key", key)
		}
		here := *s
		here.t = t
		a := here.request(http.MethodPost, at.path, body, header...)
		if a.StatusCode >= http.StatusInternalServerError {
			t.Errorf("%s: %d: %s\n%s", at.path, a.StatusCode, a.body, s.logs.String())
		}
		d.declared(a, at.described)
	})
}
