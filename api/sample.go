package api

import (
	"github.com/danielgtaylor/huma/v2"
)

// describeExamples gives every body an example that has none, made of those of its
// fields.
func describeExamples(api *huma.OpenAPI, op *huma.Operation) {
	if op.RequestBody != nil {
		for _, content := range op.RequestBody.Content {
			if content.Example == nil {
				content.Example = sampler{api.Components.Schemas, true}.of(content.Schema)
			}
		}
	}
	for _, response := range op.Responses {
		for _, content := range response.Content {
			if content.Example == nil {
				content.Example = sampler{api.Components.Schemas, false}.of(content.Schema)
			}
		}
	}
}

// sampler makes examples. Those of requests have all there is to be said. Those of
// answers have no times that not every answer has, as these tell of what is over.
type sampler struct {
	registry  huma.Registry
	ofRequest bool
}

// of is an example of what has the schema s, or nil if there is none.
func (p sampler) of(s *huma.Schema) any {
	for s != nil && s.Ref != "" {
		s = p.registry.SchemaFromRef(s.Ref)
	}
	switch {
	case s == nil:
		return nil
	case len(s.Examples) > 0:
		return s.Examples[0]
	case len(s.Enum) > 0:
		return s.Enum[0]
	case s.Type == huma.TypeArray:
		if item := p.of(s.Items); item != nil {
			return []any{item}
		}
	case s.Type == huma.TypeObject && len(s.Properties) > 0:
		return p.object(s)
	}
	return nil
}

func (p sampler) object(s *huma.Schema) any {
	required := map[string]bool{}
	for _, name := range s.Required {
		required[name] = true
	}
	members := map[string]any{}
	for name, property := range s.Properties {
		listOfObjects := property.Type == huma.TypeArray && property.Items != nil && property.Items.Ref != ""
		if !required[name] && (listOfObjects || !p.ofRequest && property.Format == "date-time") {
			continue
		}
		if value := p.of(property); value != nil {
			members[name] = value
		}
	}
	return members
}
