package sender

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// page is a rendered message.
type page struct {
	subject string // one line
	text    []byte // in quoted-printable, as is html
	html    []byte // nil if the message has no HTML part
	dots    bool   // some line begins with a dot
}

// render fills the template that m names, in the language nearest to the one
// that m asks for. The page lies in b.
func (t *Templates) render(b *buffer, m *outbox.Message) (page, error) {
	tmpl, err := t.lookup(m.Template, m.Locale)
	if err != nil {
		return page{}, err
	}
	d := data{m: m, locale: tmpl.locale}
	b.parts.out = b.parts.out[:0]
	var p page
	var problems [3]error
	p.subject, problems[0] = tmpl.subject.line(b, &d)
	p.text, p.dots, problems[1] = tmpl.text.body(b, &d)
	if tmpl.html != nil {
		var dots bool
		p.html, dots, problems[2] = tmpl.html.body(b, &d)
		p.dots = p.dots || dots
	}
	if err := errors.Join(problems[:]...); err != nil {
		return page{}, fmt.Errorf("render template %s in %s: %w", tmpl.name, tmpl.locale, err)
	}
	if string(p.html) == "\r\n" {
		p.html = nil
	}
	return p, nil
}

// part is one file of a template.
type part struct {
	tmpl    executor
	program *program // the same, compiled; nil: there is no such thing
}

// executor is a template of either package.
type executor interface {
	Execute(w io.Writer, data any) error
}

// line gives the part of a message that is a header's value.
func (p *part) line(b *buffer, d *data) (line string, err error) {
	b.text, err = p.execute(b.text[:0], d)
	return oneLine(string(b.text)), err
}

// body gives a part that is text without the space around it, with a line end, and
// encoded.
func (p *part) body(b *buffer, d *data) (body []byte, dots bool, err error) {
	q, before := &b.parts, b.parts.out
	q.begin(before)
	ok := false
	if p.program != nil && p.program.framed {
		b.text, ok = p.program.quote(q, b.text, d.m, d.locale)
	}
	if !ok {
		b.text, err = p.execute(b.text[:0], d)
		b.text = append(b.text[:0], bytes.TrimSpace(b.text)...)
		q.begin(before)
		q.write(append(b.text, '\n'))
		q.closeLine()
	}
	return q.out[len(before):], q.dots, err
}

// execute appends the part. A panic in it is this message's problem and nobody
// else's.
func (p *part) execute(dst []byte, d *data) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			out, err = dst, fmt.Errorf("panic in template: %v", r)
		}
	}()
	if p.program != nil {
		if out, ok := p.program.append(dst, d.m, d.locale); ok {
			return out, nil
		}
	}
	b := bytes.NewBuffer(dst)
	if err := p.tmpl.Execute(b, d.values()); err != nil {
		return dst, err
	}
	return b.Bytes(), nil
}

// data is what a message's template is filled with.
type data struct {
	m      *outbox.Message
	locale string         // of the template
	copied map[string]any // see values; nil: nobody asked yet
}

func (d *data) values() map[string]any {
	if d.copied == nil {
		d.copied = values(d.m, d.locale)
	}
	return d.copied
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
		if isWhole(v) {
			return int64(v)
		}
	}
	return v
}

// isWhole says that v is a whole number, and known exactly.
func isWhole(v float64) bool {
	const exact = 1 << 53
	return v == math.Trunc(v) && math.Abs(v) < exact
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
		return strconv.Itoa(at.Day()) + ". " + months[at.Month()-1] + " " + strconv.Itoa(at.Year())
	default:
		return at.Format(time.DateOnly)
	}
}

// lookup finds a template by name, in the language asked for or the nearest one
// that has it (RFC 4647 section 3.4): de-AT, de, en.
func (t *Templates) lookup(name, locale string) (*emailTemplate, error) {
	for tag := languageOf(locale); tag != ""; tag = wider(tag) {
		if tmpl, ok := t.byLocale[tag][name]; ok {
			return tmpl, nil
		}
	}
	if tmpl, ok := t.byLocale[fallbackLocale][name]; ok {
		return tmpl, nil
	}
	return nil, fmt.Errorf("there is no template %q in the languages %s", clean(name), strings.Join(languages(locale), ", "))
}

// normalise makes language tags comparable: de_AT is de-at.
func normalise(tag string) string {
	return strings.ToLower(strings.ReplaceAll(tag, "_", "-"))
}

// languageOf is the tag that locale stands for, fit to be printed.
func languageOf(locale string) string {
	tag := normalise(locale)
	if len(tag) > maxReplyText {
		return clean(tag)
	}
	for i := range len(tag) {
		if c := tag[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return clean(tag)
		}
	}
	return tag
}

// wider is the tag to try next: without its last subtag. A single-letter subtag at
// the end introduces nothing any more and goes with it.
func wider(tag string) string {
	tag = tag[:max(0, strings.LastIndexByte(tag, '-'))]
	if len(tag) > 2 && tag[len(tag)-2] == '-' {
		tag = tag[:len(tag)-2]
	}
	return tag
}

// languages lists the tags to try for locale, the nearest first.
func languages(locale string) []string {
	var tags []string
	for tag := languageOf(locale); tag != ""; tag = wider(tag) {
		tags = append(tags, tag)
	}
	if !slices.Contains(tags, fallbackLocale) {
		tags = append(tags, fallbackLocale)
	}
	return tags
}
