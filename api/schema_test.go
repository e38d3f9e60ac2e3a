package api_test

import (
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// schema is a JSON schema, as far as the description uses it.
type schema struct {
	Ref                  string `json:"$ref"`
	Type                 string
	Format               string
	Required             []string
	Properties           map[string]schema
	AdditionalProperties any `json:"additionalProperties"`
	Items                *schema
	MinItems, MaxItems   *int
	MaxLength            *int
	Minimum, Maximum     *float64
	Enum                 []any
	Examples             []any
	Default              any
}

// resolve follows a reference.
func (d openAPI) resolve(s schema) schema {
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		return d.Components.Schemas[name]
	}
	return s
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// faults says where value is not what s says. A schema without a type takes anything.
func (d openAPI) faults(s schema, value any, at string) (all []string) {
	s = d.resolve(s)
	fault := func(format string, args ...any) { all = append(all, at+": "+fmt.Sprintf(format, args...)) }
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, value) {
		fault("%v is none of %v", value, s.Enum)
	}
	types := map[string]bool{"": true}
	switch value := value.(type) {
	case map[string]any:
		types["object"] = true
		for _, name := range s.Required {
			if _, ok := value[name]; !ok {
				fault("%s is missing", name)
			}
		}
		for name, member := range value {
			property, ok := s.Properties[name]
			if !ok && s.AdditionalProperties == false {
				fault("%s is not described", name)
			}
			all = append(all, d.faults(property, member, at+"."+name)...)
		}
	case []any:
		types["array"] = true
		if s.MinItems != nil && len(value) < *s.MinItems || s.MaxItems != nil && len(value) > *s.MaxItems {
			fault("has %d items", len(value))
		}
		for i, item := range value {
			if s.Items != nil {
				all = append(all, d.faults(*s.Items, item, fmt.Sprintf("%s[%d]", at, i))...)
			}
		}
	case string:
		types["string"] = true
		if _, err := time.Parse(time.RFC3339Nano, value); s.Format == "date-time" && err != nil || s.Format == "uuid" && !uuid.MatchString(value) {
			fault("%q is no %s", value, s.Format)
		}
		if s.MaxLength != nil && utf8.RuneCountInString(value) > *s.MaxLength {
			fault("has more than %d characters", *s.MaxLength)
		}
	case float64:
		types["number"], types["integer"] = true, value == math.Trunc(value)
		if s.Minimum != nil && value < *s.Minimum || s.Maximum != nil && value > *s.Maximum {
			fault("%v is out of range", value)
		}
	case bool:
		types["boolean"] = true
	}
	if !types[s.Type] {
		fault("%v is not of type %q", value, s.Type)
	}
	return all
}

// Whoever takes an example for granted must not be led astray.
func TestOpenAPI_examplesAreOfTheirSchemas(t *testing.T) {
	t.Parallel()
	d := start(t, nil).description()
	seen := 0
	check := func(s schema, example any, at string) {
		seen++
		for _, fault := range d.faults(s, example, at) {
			t.Error(fault)
		}
	}
	var inside func(s schema, at string)
	inside = func(s schema, at string) {
		for _, example := range s.Examples {
			check(s, example, at)
		}
		for name, property := range s.Properties {
			inside(property, at+"."+name)
		}
	}
	for name, s := range d.Components.Schemas {
		inside(s, name)
	}
	for path, operations := range d.Paths {
		for method, op := range operations {
			at := method + " " + path
			for _, p := range op.Parameters {
				inside(p.Schema, at+" "+p.Name)
				if p.Example != nil {
					check(p.Schema, p.Example, at+" "+p.Name)
				} else if p.In == "path" && len(p.Schema.Examples) == 0 {
					t.Errorf("%s: %s has no example", at, p.Name)
				}
			}
			for media, c := range op.RequestBody.Content {
				if c.Example == nil {
					t.Errorf("%s: %s has no example", at, media)
					continue
				}
				check(c.Schema, c.Example, at+" "+media)
			}
			for status, response := range op.Responses {
				for media, c := range response.Content {
					if c.Example == nil {
						t.Errorf("%s: %s %s has no example", at, status, media)
						continue
					}
					check(c.Schema, c.Example, at+" "+status)
				}
			}
		}
	}
	t.Logf("%d examples", seen)
	if seen < 500 {
		t.Errorf("found %d examples only", seen)
	}
	for _, c := range []struct {
		s     schema
		value any
		want  int
	}{ // the check itself finds something
		{schema{Type: "string", Format: "uuid"}, "x", 1}, {schema{Type: "string", Format: "date-time"}, "2026-02-30T00:00:00Z", 1}, {schema{Type: "integer"}, 1.5, 1},
		{schema{Type: "object", AdditionalProperties: false}, map[string]any{"a": 1.0}, 1}, {schema{Type: "object", Required: []string{"a"}}, map[string]any{}, 1},
		{schema{Type: "array", Items: &schema{Type: "string"}}, []any{"a", 1.0}, 1}, {schema{Type: "string", Enum: []any{"a"}}, "b", 1}, {schema{Type: "boolean"}, true, 0},
		{schema{Type: "string"}, nil, 1}, {schema{Type: "string"}, strings.Repeat("x", 9), 0}, {schema{Type: "integer", Minimum: new(float64)}, -1.0, 1},
	} {
		if got := d.faults(c.s, c.value, http.MethodGet); len(got) != c.want {
			t.Errorf("%+v, %v: %q", c.s, c.value, got)
		}
	}
}
