package sender

import (
	"bytes"
	"fmt"
	htmltemplate "html/template"
	"maps"
	"slices"
	"strings"
	"testing"
)

// loadPart gives one part of a template called invitation, or nil if there is a
// mistake in it.
func loadPart(known escapers, ending, text string) *part {
	t := &Templates{byLocale: map[string]map[string]*emailTemplate{}, escapers: known}
	if t.add(templateFile{"de", "invitation", ending}, source{"de/invitation." + ending, text}) != nil {
		return nil
	}
	if ending == partHTML {
		return t.byLocale["de"]["invitation"].html
	}
	return t.byLocale["de"]["invitation"].text
}

// requireExecuted wants of p what Execute gives. It reports whether the program
// did it alone.
func requireExecuted(t *testing.T, p *part, source string, d *data) (alone bool) {
	t.Helper()
	got, gotErr := p.execute([]byte("before"), d)
	want, wantErr := referenceExecute(p.tmpl, values(d.m, d.locale))
	if string(got) != "before"+want || fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
		t.Errorf("%s\nwith %#v gives\n%q %v, want\n%q %v", source, d.m.Data, got, gotErr, "before"+want, wantErr)
	}
	if p.program == nil {
		return false
	}
	_, alone = p.program.append(nil, d.m, d.locale)
	return alone
}

// Ordinary mail must not depend on what is done for the odd one.
func TestProgram_doesTheEmbeddedTemplatesAlone(t *testing.T) {
	t.Parallel()
	templates := embeddedTemplates(t)
	for _, locale := range []string{"en", "de"} {
		for name, tmpl := range templates.byLocale[locale] {
			for ending, p := range map[string]*part{partSubject: tmpl.subject, partText: tmpl.text, partHTML: tmpl.html} {
				m := invitationIn(locale)
				m.Data["data"] = map[string]any{"link": m.Data["link"], "app_name": "Söhne & Co. (\"Engine\")"}
				if p.program == nil || !requireExecuted(t, p, name, &data{m: m, locale: locale}) {
					t.Errorf("%s/%s.%s is left to Execute", locale, name, ending)
				}
			}
		}
	}
}

func TestProgram_leavesTheRestToExecute(t *testing.T) {
	t.Parallel()
	for ending, sources := range map[string][]string{
		partText: {
			`{{printf "%s" .link}}`, `{{.link "x"}}`, `{{range .data}}{{end}}`, `{{$x := .link}}{{$x}}`, `{{define "x"}}{{end}}{{template "x"}}`, `{{html .link}}`,
			`{{len .data}}`, `{{if eq .locale "de"}}{{end}}`, `{{(index .data "x").y}}`, `{{index .data "x" "y"}}`, `{{index .data .link}}`,
			`{{with $x := .link}}{{end}}`, `{{.link | printf "%s"}}`, `{{7}}`, `{{true}}`, `{{or (len .data) 1}}`, `{{and .link .data}}`,
		},
		partHTML: {
			`<script>{{.link}}</script>`, `<p title={{.link}}>`, `<p style="color: {{.link}}">`, `<img srcset="{{.link}}">`, `<p>{{.link | html}}`,
			`<!-- {{.link}} -->`, `<p {{.link}}>`, `{{template "x"}}{{define "x"}}{{end}}`, `<button onclick="f({{.link}})">`,
		},
	} {
		for _, source := range sources {
			p := loadPart(escapers{}, ending, source)
			if p == nil {
				t.Fatalf("%s is wrong", source)
			}
			if p.program != nil {
				t.Errorf("%s is compiled", source)
			}
			requireExecuted(t, p, source, &data{m: invitationIn("de"), locale: "de"})
		}
	}
}

// expression makes what may stand in a pipeline.
func (c *chooser) expression() string {
	return oneOf(c, []string{
		".link", ".group_name", ".inviter_name", ".expires_at", ".data", ".data.a", ".data.b", ".data.a.b", ".data.link", ".recipient", ".locale", ".",
		"$", "$.link", "$.data.a", "$.recipient", "$.recipient.x", `or .group_name "a <group>"`, `or .group_name .inviter_name`, `or $.data.a`,
		`or "" .link`, `or .data .link`, `index .data "a"`, `index .data "app_name"`, `index . "link"`, `index .data.a "b"`, `index $ "locale"`,
		"date .expires_at", ".expires_at | date", "date .data.a", "date .", "date (index .data `a`)", `"constant <&>"`, `printf "%v" .link`, "len .link", "not .link",
		`or .data.a .data.b "x"`, `date "2026-03-01T13:00:00Z"`, "$.email", ".a", ".b.a", `index .link "x"`, "or .link | date", "date .link | date",
	})
}

// template makes a template.
func (c *chooser) template(ending string, depth int) string {
	var b strings.Builder
	for range 1 + c.below(3) {
		switch kind := c.below(8); {
		case kind == 0:
			b.WriteString(oneOf(c, []string{"", " ", "Text ", "\n", "<br>", "ü\r\n", "&amp;", "{{/* comment */}}"}))
		case kind < 3 && depth > 0:
			otherwise := oneOf(c, []string{"", "{{else}}" + c.template(ending, depth-1), "{{else if " + c.expression() + "}}x", "{{else with " + c.expression() + "}}y{{.}}"})
			if strings.HasPrefix(otherwise, "{{else with") {
				b.WriteString("{{with " + c.expression() + "}}" + c.template(ending, depth-1) + otherwise + "{{end}}")
			} else {
				word := oneOf(c, []string{"if", "with"})
				if strings.HasPrefix(otherwise, "{{else if") {
					word = "if"
				}
				b.WriteString("{{" + word + " " + c.expression() + "}}" + c.template(ending, depth-1) + otherwise + "{{end}}")
			}
		default:
			value := oneOf(c, []string{"{{" + c.expression() + "}}", "{{- " + c.expression() + " -}}"})
			if ending == partHTML {
				value = fmt.Sprintf(oneOf(c, []string{
					"%s", "<p>%s</p>", `<a href="%s">x</a>`, `<a href='%s'>x</a>`, `<b title="%s"></b>`, `<a href="/p/%s">x</a>`, `<a href="/?q=%s">x</a>`,
					"<title>%s</title>", "<textarea>%s</textarea>", "<script>f(%s)</script>", "<b title=%s>x</b>", `<b style="color: %s">x</b>`, `<a href="x%s?%[1]s">x</a>`,
				}), value)
			}
			b.WriteString(value)
		}
	}
	return b.String()
}

// tally counts what the random templates were like.
type tally struct{ templates, programs, alone int }

func (n *tally) check(t *testing.T, known escapers, choices []byte) {
	c := &chooser{bytes: choices}
	ending := oneOf(c, []string{partText, partHTML})
	source := c.template(ending, 2)
	m := anyMessage(c)
	m.Data["a"] = c.value()
	for key := range m.Data {
		if c.below(8) == 1 {
			delete(m.Data, key)
		}
	}
	p := loadPart(known, ending, source)
	if p == nil {
		return
	}
	n.templates++
	if p.program != nil {
		n.programs++
	}
	if requireExecuted(t, p, source, &data{m: m, locale: "de"}) {
		n.alone++
	}
}

func TestProgram_isWhatExecuteGivesByChance(t *testing.T) {
	t.Parallel()
	var n tally
	known := escapers{}
	byChance(t, 30000, func(t *testing.T, choices []byte) { n.check(t, known, choices) })
	t.Logf("%+v", n)
	if n.programs*3 < n.templates || n.alone*4 < n.programs {
		t.Errorf("that shows little: %+v", n)
	}
}

func FuzzProgram(f *testing.F) {
	for i := range 64 {
		f.Add(bytes.Repeat([]byte{byte(i * 5), byte(i * 11), byte(i * 31), byte(i)}, 12))
	}
	known := escapers{}
	f.Fuzz(func(t *testing.T, choices []byte) {
		var n tally
		n.check(t, known, choices)
	})
}

// requireEscaped wants of each escaper what html/template gives, or nothing.
func requireEscaped(t *testing.T, known escapers, value string) {
	t.Helper()
	for before, after := range map[string]string{
		"<b>": "!</b>", "<textarea>": "</textarea>", `<b class='x' title='`: `'>x</b>`, `<img alt="" src="`: `">`, `<a href="https://x.example/y/`: `">z</a>`,
		`<a href="https://x.example/?y=z&amp;q=`: `">z</a>`,
	} {
		tmpl := htmltemplate.Must(htmltemplate.New("").Parse(before + "{{.}}" + after))
		var want strings.Builder
		if err := tmpl.Execute(&want, value); err != nil {
			t.Fatal(err)
		}
		names := ""
		for name := range known {
			if _, _, ok := surroundings(tmpl.Tree, name); ok {
				names = name
			}
		}
		if known[names] == nil {
			t.Fatalf("no escaper for %s; there are %q", before, slices.Sorted(maps.Keys(known)))
		}
		got, ok := known[names].append([]byte(before), value)
		if got = append(got, after...); ok && string(got) != want.String() {
			t.Errorf("%q escaped by %s is\n%s, want\n%s", value, names, got, want.String())
		}
	}
}

func allEscapers(t testing.TB) escapers {
	t.Helper()
	known := escapers{}
	url := "_html_template_urlnormalizer|_html_template_attrescaper"
	for _, functions := range []string{
		"_html_template_htmlescaper", "_html_template_rcdataescaper", "_html_template_attrescaper", "_html_template_urlfilter|" + url, url,
		"_html_template_urlescaper|_html_template_attrescaper",
	} {
		if known.of(functions) == nil {
			t.Errorf("%s is not understood", functions)
		}
	}
	return known
}

func TestEscaper_isWhatTheLibraryDoes(t *testing.T) {
	t.Parallel()
	known := allEscapers(t)
	for _, text := range pieces {
		requireEscaped(t, known, text)
		requireEscaped(t, known, "https://x.example/"+text)
	}
	for c := range 256 {
		for _, text := range []string{"%c", "https://%c", "https://x/%cy%[1]c%[1]cz", "%%%c", "x:%%4%c", "http://x/%%%[1]c%[1]c"} {
			requireEscaped(t, known, strings.ReplaceAll(fmt.Sprintf(text, '\x02'), "\x02", string([]byte{byte(c)})))
		}
	}
	byChance(t, 500, func(t *testing.T, choices []byte) {
		requireEscaped(t, known, string(choices))
		requireEscaped(t, known, "https://"+string(choices))
	})
}

// What is easy must be, too.
func TestEscaper_doesOrdinaryValues(t *testing.T) {
	t.Parallel()
	for functions, e := range allEscapers(t) {
		values := []string{"https://app.example.com/accept?token=7kV0-_.~&lang=x#y", "http://x.example/a%20b+c"}
		if e.unicode {
			values = append(values, "O'Neil & Söhne <x@example.com>\r\n", "日本語 \"😀\"")
		}
		for _, value := range values {
			if _, ok := e.append(nil, value); !ok {
				t.Errorf("%s leaves %q to the library", functions, value)
			}
		}
	}
}

func FuzzEscaper(f *testing.F) {
	known := allEscapers(f)
	for _, text := range pieces {
		f.Add(text)
		f.Add("https://" + text)
	}
	f.Fuzz(func(t *testing.T, text string) { requireEscaped(t, known, text) })
}
