package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// Problems say where they are, however deep, and repeat no name that may be a value.
func TestProblem_pointsIntoWhatIsNested(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	const good = `{"kind":"hard","address":"ada@example.com"}`
	for _, c := range []struct {
		path, body string
		pointers   []string
	}{
		{"/v1/bounces", `{"bounces":[` + good + `,` + good + `,` + good + `,{"kind":"hard","address":7}]}`, []string{"#/bounces/3/address"}},
		{"/v1/bounces", `{"bounces":[{"kind":"nice"},7,{"kind":"hard","at":"then"}]}`, []string{"#/bounces/0/kind", "#/bounces/1", "#/bounces/2/at"}},
		{"/v1/bounces", `{"bounces":[{}]}`, []string{"#/bounces/0"}},
		{"/v1/bounces", `{"bounces":7}`, []string{"#/bounces"}},
		{"/v1/bounces", `{"bounces":[{"kind":"hard","colour":7}]}`, []string{"#/bounces/0/colour"}},
		{"/v1/bounces", `{"bounces":[{"kind":"hard","` + secret + `@example.com":7}]}`, []string{"#/bounces/0"}},
		{"/v1/bounces", `{"bounces":[{"kind":"hard","www.` + secret + `":7}]}`, []string{"#/bounces/0"}},
		{"/v1/bounces", `{"bounces":[{"kind":"hard","` + secret + `[0]":7}]}`, []string{"#/bounces/0"}},
		{"/v1/bounces", `{"bounces":[{"kind":"hard","a/b~c":7}]}`, []string{"#/bounces/0"}},
		{"/v1/keys", `{"name":"a","scopes":["messages:read",7,null]}`, []string{"#/scopes/1", "#/scopes/2"}},
		{"/v1/webhooks", `{"url":"https://example.com","types":[["a"]]}`, []string{"#/types/0"}},
		{"/v1/groups/42/invitations", `{"email":"ada@example.com","remind_after":[3600,"soon"]}`, []string{"#/remind_after/1"}},
		{"/v1/groups/42/invitations/batch?atomic=true", `{"invitations":[` + ada + `,{"email":7,"remind_after":[0]}]}`, []string{"#/invitations/1/email", "#/invitations/1/remind_after/0"}},
		{"/v1/groups/42/invitations", `{"email":7,"www.` + secret + `":1}`, []string{"#", "#/email"}},
		{"/v1/messages", `[]`, []string{"#"}},
	} {
		a := s.request(http.MethodPost, c.path, c.body)
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
		s.silent(a)
		if got := pointers(t, a); !slices.Equal(got, c.pointers) {
			t.Errorf("%s %s: %q instead of %q: %s", c.path, c.body, got, c.pointers, a.body)
		}
	}
	a := s.request(http.MethodPost, "/v1/suppressions/import", "address\nnobody\n", "Content-Type", "-", "Content-Type", "text/csv")
	if a.errorAt("body.lines[0].address"); strings.Contains(string(a.body), "pointer") {
		t.Errorf("there are no JSON pointers into CSV: %s", a.body)
	}
	if a := s.get("/v1/events?www." + secret + "=1"); a.errorAt("query") == "" {
		t.Errorf("%s", a.body)
	}
}

func pointers(t testing.TB, a *answer) (all []string) {
	t.Helper()
	var p struct{ Errors []map[string]any }
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatal(err)
	}
	for _, e := range p.Errors {
		all = append(all, fmt.Sprint(e["pointer"]))
	}
	slices.Sort(all)
	return all
}
