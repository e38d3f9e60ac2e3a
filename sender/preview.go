package sender

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mailcrane/mailcrane/outbox"
)

// Names gives the templates that there are, with the language tags of each in
// alphabetical order.
func (t *Templates) Names() map[string][]string {
	names := map[string][]string{}
	for _, locale := range slices.Sorted(maps.Keys(t.byLocale)) {
		for name, tmpl := range t.byLocale[locale] {
			names[name] = append(names[name], tmpl.locale)
		}
	}
	return names
}

// Render fills the template that m names, in the language nearest to the one that m
// asks for, for people to look at: what a mail would say, before it is encoded. html
// is empty if the message has no such part.
func (t *Templates) Render(m *outbox.Message) (subject, text, html string, err error) {
	tmpl, err := t.lookup(m.Template, m.Locale)
	if err != nil {
		return "", "", "", err
	}
	var problems []error
	fill := func(p *part) string {
		if p == nil {
			return ""
		}
		out, err := p.execute(nil, &data{m: m, locale: tmpl.locale})
		problems = append(problems, err)
		return strings.TrimSpace(string(out))
	}
	subject, text, html = oneLine(fill(tmpl.subject)), fill(tmpl.text), fill(tmpl.html)
	if err := errors.Join(problems...); err != nil {
		return "", "", "", fmt.Errorf("render template %s in %s: %w", tmpl.name, tmpl.locale, err)
	}
	return subject, text, html, nil
}
