package api_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// flaw is a body with one thing wrong that the schema speaks of, and where that is.
type flaw struct {
	body any
	at   string // JSON pointer
	what string
	sure bool // it must be refused; otherwise the schema leaves it to the database
}

// flaws are the ways in which good, which has the schema s, can go wrong.
func (d openAPI) flaws(s schema, good any, at string) (all []flaw) {
	s = d.resolve(s)
	wrong := func(what string, bodies ...any) {
		for _, body := range bodies {
			all = append(all, flaw{body, at, what, true})
		}
	}
	for kind, value := range map[string]any{"string": "x", "integer": 7.0, "boolean": true, "array": []any{}, "object": map[string]any{}} {
		if s.Type != "" && kind != s.Type {
			wrong("a value of another type", value)
		}
	}
	switch s.Type {
	case "object":
		object, _ := good.(map[string]any)
		all = append(all, d.flawsOfObject(s, object, at)...)
	case "array":
		list, _ := good.([]any)
		for _, f := range d.flaws(*s.Items, list[0], at+"/0") {
			f.body = []any{f.body}
			all = append(all, f)
		}
		if s.MaxItems != nil {
			wrong("too many items", slices.Repeat(list[:1], *s.MaxItems+1))
		}
		if s.MinItems != nil {
			wrong("too few items", list[:*s.MinItems-1])
		}
		wrong("null among the items", []any{nil})
		all[len(all)-1].at += "/0"
	case "integer":
		wrong("a fraction", 1.5)
		if s.Minimum != nil {
			wrong("too little", *s.Minimum-1)
		}
		if s.Maximum != nil {
			wrong("too much", *s.Maximum+1)
		}
	case "string":
		if s.MaxLength != nil {
			wrong("too long", strings.Repeat("x", *s.MaxLength+1))
		}
		if s.Format != "" {
			wrong("of no such format", "yesterday", "2026-02-30T09:00:00Z", "")
		}
		if len(s.Enum) > 0 {
			wrong("none of the list", "none")
		}
		for _, odd := range []string{"", " ", "\x00", "\u202e", "a\r\nBcc: b@example.com", strings.Repeat("é", 3000), "{{.}}", "'; --", "💌"} {
			all = append(all, flaw{odd, at, "an odd text", false})
		}
	}
	return all
}

func (d openAPI) flawsOfObject(s schema, good map[string]any, at string) (all []flaw) {
	with := func(name string, value any) map[string]any {
		other := maps.Clone(good)
		other[name] = value
		return other
	}
	for _, name := range s.Required {
		missing := maps.Clone(good)
		delete(missing, name)
		all = append(all, flaw{missing, at, name + " is missing", true}, flaw{with(name, nil), at + "/" + name, "null", true})
	}
	for name, property := range s.Properties {
		sample := good[name]
		if sample == nil && len(d.resolve(property).Examples) > 0 {
			sample = d.resolve(property).Examples[0]
		}
		if d.resolve(property).Type == "array" && sample == nil {
			continue
		}
		for _, f := range d.flaws(property, sample, at+"/"+name) {
			f.body = with(name, f.body)
			all = append(all, f)
		}
		all = append(all, flaw{with(strings.ToUpper(name), sample), "", "the name in another case", true})
	}
	if s.AdditionalProperties == false {
		all = append(all, flaw{with("colour", 7), at + "/colour", "a field that there is not", true})
	}
	return all
}

// Whatever is wrong with a request: the answer is described, it is not our fault, and it
// says where. What the description forbids is refused.
func TestContract_brokenRequestsAreRefused(t *testing.T) {
	t.Parallel()
	d := startDriver(t)
	for _, c := range d.calls() {
		d.prepare(&c)
		good := c.text(c.body)
		refused := func(what string, a *answer, statuses ...int) {
			t.Helper()
			if !slices.Contains(statuses, a.StatusCode) {
				t.Errorf("%s with %s: %d instead of one of %v: %.300s", c.OperationID, what, a.StatusCode, statuses, a.body)
			}
		}
		before := d.tried
		d.breakBody(c, good, refused)
		d.breakPath(c, good, refused)
		d.breakRest(c, good, refused)
		if d.tried == before && strings.HasPrefix(c.path, "/v1/") {
			t.Errorf("%s was not asked", c.OperationID)
		}
	}
	t.Logf("%d wrong requests", d.tried)
	if d.tried < 1400 {
		t.Errorf("only %d requests", d.tried)
	}
}

func (d *driver) breakBody(c call, good string, refused func(string, *answer, ...int)) {
	d.t.Helper()
	if c.method != http.MethodPost {
		return
	}
	refused("another media type", d.send(c, "", "{}", "Content-Type", "-", "Content-Type", "application/xml"), http.StatusUnsupportedMediaType)
	refused("another charset", d.send(c, "", "{}", "Content-Type", "-", "Content-Type", "application/json; charset=latin1"), http.StatusUnsupportedMediaType)
	huge := `"` + strings.Repeat("x", 1<<20+1) + `"`
	if c.media == "" {
		refused("a huge body", d.send(c, "", huge, "Content-Type", "-", "Content-Type", "application/json"), http.StatusRequestEntityTooLarge)
		return
	}
	refused("a huge body", d.send(c, "", huge), http.StatusRequestEntityTooLarge)
	for _, body := range []string{"", "{", "\xff", good + good, strings.Repeat("[", 100), `{"a":{"a":1,"a":2}}`} {
		a := d.send(c, "", body)
		if c.media == "application/json" {
			refused("a body that is no document", a, http.StatusBadRequest, http.StatusUnprocessableEntity)
		}
	}
	s := d.resolve(c.RequestBody.Content[c.media].Schema)
	if s.Type != "object" {
		return // whatever a provider likes, or no JSON
	}
	refused("no object", d.send(c, "", "null"), http.StatusBadRequest, http.StatusUnprocessableEntity)
	for _, f := range d.flaws(s, c.body, "#") {
		a := d.send(c, "", c.text(f.body))
		if f.sure {
			refused(f.what+" at "+f.at, a, http.StatusUnprocessableEntity, map[bool]int{true: http.StatusRequestEntityTooLarge}[f.what == "too many items"])
		}
		if a.StatusCode != http.StatusUnprocessableEntity {
			continue
		}
		found := pointers(d.t, a)
		if slices.Contains(found, "<nil>") {
			d.t.Errorf("%s: the body is wrong, and the answer is about something else: %s", c.OperationID, a.body)
		}
		// The stream of a batch is judged by its form before its items are.
		if nested := strings.Contains(f.at, "/0") || c.OperationID != "inviteBatch"; f.sure && f.at != "" && nested && !slices.Contains(found, f.at) {
			d.t.Errorf("%s with %s at %s: the answer points to %q: %s", c.OperationID, f.what, f.at, found, a.body)
		}
	}
}

func (d *driver) breakPath(c call, good string, refused func(string, *answer, ...int)) {
	d.t.Helper()
	for name := range c.in {
		for value, missing := range map[string]bool{
			"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b2f": true, "x": true, "0": true, "%00": true, "%ff": false, "%20": false, strings.Repeat("x", 300): false, "..%2f..": true, "%F0%9F%92%8C": true,
		} {
			other := c
			other.in = maps.Clone(c.in)
			other.in[name] = value
			a := d.send(other, "", good)
			if name == "group_id" {
				continue // the application's, and free
			}
			if missing {
				refused("nothing at "+value, a, http.StatusNotFound, http.StatusUnprocessableEntity)
			} else {
				refused("an impossible "+name, a, http.StatusNotFound, http.StatusUnprocessableEntity)
			}
		}
	}
}

func (d *driver) breakRest(c call, good string, refused func(string, *answer, ...int)) {
	d.t.Helper()
	if strings.HasPrefix(c.path, "/v1/") {
		refused("an unknown parameter", d.send(c, "?colour=7", good), http.StatusUnprocessableEntity)
	}
	for _, p := range c.Parameters {
		if p.In == "header" {
			for _, key := range []string{"", strings.Repeat("k", 256), "\xff", "k\u200b"} {
				refused("a key that is none", d.send(c, "", good, p.Name, key), http.StatusUnprocessableEntity)
			}
		}
		if p.In != "query" {
			continue
		}
		wrong := map[string][]string{"integer": {"x", "1.5", "9999999999999999999", "-"}, "boolean": {"perhaps", "2"}}[p.Schema.Type]
		if s := p.Schema; s.Minimum != nil {
			wrong = append(wrong, fmt.Sprint(*s.Minimum-1), fmt.Sprint(*s.Maximum+1))
		}
		if p.Schema.MaxLength != nil {
			wrong = append(wrong, strings.Repeat("x", *p.Schema.MaxLength+1))
		}
		if len(p.Schema.Enum) > 0 {
			wrong = append(wrong, "none")
		}
		if p.Schema.Type == "string" {
			wrong = append(wrong, "\x00", "\xff")
		}
		for _, value := range wrong {
			a := d.send(c, "?"+p.Name+"="+url.QueryEscape(value), good)
			refused(p.Name+" that is none", a, http.StatusUnprocessableEntity)
			if !strings.Contains(string(a.body), `"query.`+p.Name+`"`) {
				d.t.Errorf("%s: %s is wrong, and the answer is about something else: %s", c.OperationID, p.Name, a.body)
			}
		}
	}
}
