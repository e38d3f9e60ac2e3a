package sender

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// page is a rendered message.
type page struct {
	subject string // one line
	text    string
	html    string // empty if the template has no HTML part
}

// render fills the template that m names, in the language nearest to the one
// that m asks for.
func (t *Templates) render(m *outbox.Message) (page, error) {
	tmpl, err := t.lookup(m.Template, m.Locale)
	if err != nil {
		return page{}, err
	}
	values := values(m, tmpl.locale)
	var p page
	var problems [3]error
	p.subject, problems[0] = execute(tmpl.subject, values)
	p.text, problems[1] = execute(tmpl.text, values)
	if tmpl.html != nil {
		p.html, problems[2] = execute(tmpl.html, values)
	}
	if err := errors.Join(problems[:]...); err != nil {
		return page{}, fmt.Errorf("render template %s in %s: %w", tmpl.name, tmpl.locale, err)
	}
	p.subject = oneLine(p.subject)
	p.text = strings.TrimSpace(p.text) + "\n"
	p.html = strings.TrimSpace(p.html)
	if p.html != "" {
		p.html += "\n"
	}
	return p, nil
}

// executor is a template of either package.
type executor interface {
	Execute(w io.Writer, data any) error
}

// execute runs one part. A panic in it is this message's problem and nobody
// else's.
func execute(tmpl executor, values map[string]any) (out string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in template: %v", r)
		}
	}()
	var b strings.Builder
	if err := tmpl.Execute(&b, values); err != nil {
		return "", err
	}
	return b.String(), nil
}

// values gives what a template sees: the message's data, and who is written to
// in which language.
func values(m *outbox.Message, locale string) map[string]any {
	root := make(map[string]any, len(m.Data)+3)
	maps.Copy(root, m.Data)
	root, _ = plain(root).(map[string]any)
	root["recipient"] = m.Recipient
	root["locale"] = locale
	if _, ok := root["data"].(map[string]any); !ok {
		root["data"] = map[string]any{}
	}
	return root
}

// plain copies JSON values as a template should see them: a null is as good as
// missing, and must not be printed as <no value>; a whole number has no exponent.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			if value != nil {
				out[key] = plain(value)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, value := range v {
			out[i] = plain(value)
		}
		return out
	case float64:
		const exact = 1 << 53
		if v == math.Trunc(v) && math.Abs(v) < exact {
			return int64(v)
		}
	}
	return v
}

// dateFunc gives the template function date of a language: the day, in UTC, of
// an RFC 3339 time. A language without a form of its own gets the ISO one.
func dateFunc(locale string) func(any) (string, error) {
	language, _, _ := strings.Cut(normalise(locale), "-")
	return func(v any) (string, error) {
		var at time.Time
		switch v := v.(type) {
		case time.Time:
			at = v
		case string:
			var err error
			if at, err = time.Parse(time.RFC3339, v); err != nil {
				return "", errors.New("the value is not an RFC 3339 time")
			}
		default:
			return "", fmt.Errorf("the value is a %T and not an RFC 3339 time", v)
		}
		return formatDate(at.UTC(), language), nil
	}
}

func formatDate(at time.Time, language string) string {
	switch language {
	case "en":
		return at.Format("2 January 2006")
	case "de":
		months := [...]string{"Januar", "Februar", "März", "April", "Mai", "Juni", "Juli",
			"August", "September", "Oktober", "November", "Dezember"}
		return fmt.Sprintf("%d. %s %d", at.Day(), months[at.Month()-1], at.Year())
	default:
		return at.Format(time.DateOnly)
	}
}

// lookup finds a template by name, in the language asked for or the nearest one
// that has it (RFC 4647 section 3.4): de-AT, de, en.
func (t *Templates) lookup(name, locale string) (*emailTemplate, error) {
	tried := languages(locale)
	for _, tag := range tried {
		if tmpl, ok := t.byLocale[tag][name]; ok {
			return tmpl, nil
		}
	}
	return nil, fmt.Errorf("there is no template %q in the languages %s", clean(name), strings.Join(tried, ", "))
}

// normalise makes language tags comparable: de_AT is de-at.
func normalise(tag string) string {
	return strings.ToLower(strings.ReplaceAll(tag, "_", "-"))
}

// languages lists the tags to try for locale, the nearest first. A single-letter
// subtag at the end introduces nothing any more and goes with the next.
func languages(locale string) []string {
	var tags []string
	tag := clean(normalise(locale))
	for tag != "" {
		tags = append(tags, tag)
		tag = tag[:max(0, strings.LastIndexByte(tag, '-'))]
		if len(tag) > 2 && tag[len(tag)-2] == '-' {
			tag = tag[:len(tag)-2]
		}
	}
	if !slices.Contains(tags, fallbackLocale) {
		tags = append(tags, fallbackLocale)
	}
	return tags
}
