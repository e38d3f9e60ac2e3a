package api_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// openAPI is what the tests need of the description.
type openAPI struct {
	OpenAPI    string `json:"openapi"`
	Paths      map[string]map[string]operation
	Components struct{ Schemas map[string]schema }
}

// operation is one of a path.
type operation struct {
	OperationID string `json:"operationId"`
	Description string
	Parameters  []parameter
	Security    []map[string][]string
	RequestBody struct{ Content map[string]content } `json:"requestBody"`
	Responses   map[string]struct {
		Headers map[string]struct{ Required bool }
		Content map[string]content
	}
}

// content is a body, of a request or an answer.
type content struct {
	Schema  schema
	Example any
}

// parameter is one of a request.
type parameter struct {
	Name, In string
	Required bool
	Schema   schema
	Example  any
}

func (s *service) description() openAPI {
	s.t.Helper()
	a := s.get("/openapi.json").want(http.StatusOK)
	if got := a.Header.Get("Content-Type"); got != "application/json" {
		s.t.Errorf("content type is %q", got)
	}
	var d openAPI
	if err := json.Unmarshal(a.body, &d); err != nil {
		s.t.Fatal(err)
	}
	return d
}

func TestOpenAPI_listsAllRoutes(t *testing.T) {
	t.Parallel()
	d := start(t, nil).description()
	if d.OpenAPI != "3.1.0" {
		t.Errorf("it is OpenAPI %s", d.OpenAPI)
	}
	var routes []string
	for path, operations := range d.Paths {
		for method := range operations {
			routes = append(routes, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(routes)
	want := []string{
		"DELETE /v1/suppressions/{address}", "DELETE /v1/webhooks/{id}", "GET /livez", "GET /readyz", "GET /v1/events", "GET /v1/invitations", "GET /v1/invitations/{id}", "GET /v1/keys", "GET /v1/keys/{id}", "GET /v1/messages", "GET /v1/messages/{id}", "GET /v1/messages/{id}/attempts", "GET /v1/messages/{id}/preview", "GET /v1/suppressions", "GET /v1/templates", "GET /v1/webhooks", "GET /v1/webhooks/{id}", "POST /v1/bounces", "POST /v1/bounces/{provider}", "POST /v1/groups/{group_id}/invitations",
		"POST /v1/groups/{group_id}/invitations/batch",
		"POST /v1/invitations/accept", "POST /v1/invitations/decline", "POST /v1/invitations/verify",
		"POST /v1/invitations/{id}/accept", "POST /v1/invitations/{id}/change-address", "POST /v1/invitations/{id}/decline",
		"POST /v1/invitations/{id}/resend", "POST /v1/invitations/{id}/revoke",
		"POST /v1/keys", "POST /v1/keys/{id}/revoke",
		"POST /v1/messages", "POST /v1/messages/{id}/cancel", "POST /v1/messages/{id}/mark-sent", "POST /v1/messages/{id}/release", "POST /v1/messages/{id}/retry",
		"POST /v1/suppressions", "POST /v1/suppressions/import", "POST /v1/templates/{name}/preview",
		"POST /v1/webhooks", "POST /v1/webhooks/{id}/enable", "POST /v1/webhooks/{id}/replay", "POST /v1/webhooks/{id}/rotate",
	}
	if !slices.Equal(routes, want) {
		t.Errorf("routes are %q, want %q", routes, want)
	}
}

func TestOpenAPI_describesErrorsWithExamples(t *testing.T) {
	t.Parallel()
	d := start(t, nil).description()
	for path, operations := range d.Paths {
		for _, op := range operations {
			open := len(op.Security) == 1 && len(op.Security[0]) == 0
			if guarded := strings.HasPrefix(path, "/v1/"); guarded == open {
				t.Errorf("%s: open is %t", path, open)
			}
			for status, response := range op.Responses {
				if status < "400" {
					continue
				}
				content, ok := response.Content["application/problem+json"]
				example, _ := content.Example.(map[string]any)
				if !ok || len(response.Content) != 1 || content.Schema.Ref != "#/components/schemas/Problem" ||
					!strings.HasPrefix(example["type"].(string), "/problems/") || example["detail"] == "" {
					t.Errorf("%s %s: %+v", path, status, response)
				}
			}
		}
	}
	if d.Paths["/v1/groups/{group_id}/invitations"]["post"].RequestBody.Content["application/json"].Example == nil {
		t.Error("no example of an invitation")
	}
	if _, ok := d.Components.Schemas["ErrorModel"]; ok {
		t.Error("the description has huma's error, which echoes values")
	}
}

func TestOpenAPI_exampleWorks(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	content := s.description().Paths["/v1/groups/{group_id}/invitations"]["post"].RequestBody.Content
	if len(content) != 1 {
		t.Errorf("content types are %v", content)
	}
	example, err := json.Marshal(content["application/json"].Example)
	if err != nil {
		t.Fatal(err)
	}
	s.invite(string(example)).want(http.StatusAccepted)
}

// declared fails the test unless the description knows this answer to the
// operation at path: its status, its content type, and its body.
func (d openAPI) declared(a *answer, path string) {
	a.t.Helper()
	op, ok := d.Paths[path][strings.ToLower(a.Request.Method)]
	response, known := op.Responses[a.Status[:3]]
	if known && a.StatusCode == http.StatusNoContent && len(response.Content) == 0 && len(a.body) == 0 {
		return
	}
	content, right := response.Content[a.Header.Get("Content-Type")]
	if !ok || !known || !right {
		a.t.Errorf("%s %s: %d with %q is not described: %s", a.Request.Method, path, a.StatusCode, a.Header.Get("Content-Type"), a.body)
		return
	}
	var body any
	if err := json.Unmarshal(a.body, &body); err != nil {
		a.t.Errorf("%s: %v", a.body, err)
		return
	}
	for _, fault := range d.faults(content.Schema, body, path) {
		a.t.Errorf("%s: %s in %.500s", a.Request.Method, fault, a.body)
	}
	for name, header := range response.Headers {
		if header.Required && a.Header.Get(name) == "" {
			a.t.Errorf("%s %s: %d without %s", a.Request.Method, path, a.StatusCode, name)
		}
	}
}

func TestDocs_loadNothingFromElsewhere(t *testing.T) {
	t.Parallel()
	s := start(t, withToken)
	page := s.get("/docs").want(http.StatusOK)
	policy := page.Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "script-src 'self';") || strings.Contains(policy, "http") {
		t.Errorf("policy is %q", policy)
	}
	if got := page.Header.Get("Content-Type"); got != "text/html; charset=utf-8" {
		t.Errorf("content type is %q", got)
	}
	base, err := url.Parse(s.URL + "/docs")
	if err != nil {
		t.Fatal(err)
	}
	links := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(string(page.body), -1)
	if len(links) < 4 {
		t.Fatalf("links are %q", links)
	}
	for _, link := range links {
		target, err := base.Parse(link[1])
		if err != nil || target.Host != base.Host {
			t.Errorf("link %q leads elsewhere", link[1])
			continue
		}
		if part := s.get(target.Path).want(http.StatusOK); len(part.body) < 100 {
			t.Errorf("%s is %q", target.Path, part.body)
		}
	}
	if inline := regexp.MustCompile(`<script>|<script [^>]*>[^<]|\son\w+=|<style`).FindString(string(page.body)); inline != "" {
		t.Errorf("the policy forbids what the page has: %s", inline)
	}
	if script := string(s.get("/docs/docs.js").want(http.StatusOK).body); strings.Contains(script, "http") || !strings.Contains(script, "validatorUrl: null") {
		t.Errorf("script is %s", script)
	}
	s.get("/docs/").want(http.StatusMovedPermanently)
}
