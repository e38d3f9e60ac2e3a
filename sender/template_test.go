package sender_test

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
)

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

func load(t testing.TB, fsys fstest.MapFS) *sender.Templates {
	t.Helper()
	templates, err := sender.LoadTemplates(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return templates
}

// withTemplates gives a sender with fsys over the embedded templates.
func withTemplates(t testing.TB, fsys fstest.MapFS) *sender.Email {
	t.Helper()
	templates := load(t, fsys)
	return newComposer(t, func(c *sender.EmailConfig) { c.Templates = templates })
}

func TestTemplates_readWellWithoutNames(t *testing.T) {
	t.Parallel()
	tests := []struct{ locale, group, inviter, subject, sentence string }{
		{"en", "Club", "Ada", "Ada invites you to join Club", "Ada invites you to join Club."},
		{"en", "Club", "", "You are invited to join Club", "You are invited to join Club."},
		{"en", "", "Ada", "Ada invites you to join a group", "Ada invites you to join a group."},
		{"en", "", "", "You are invited to join a group", "You are invited to join a group."},
		{"de", "Club", "Ada", "Ada lädt Sie ein: Club", "Ada lädt Sie ein, bei „Club“ mitzumachen."},
		{"de", "Club", "", "Einladung: Club", "Sie sind eingeladen, bei „Club“ mitzumachen."},
		{"de", "", "Ada", "Ada lädt Sie ein", "Ada lädt Sie ein, einer Gruppe beizutreten."},
		{"de", "", "", "Einladung in eine Gruppe", "Sie sind eingeladen, einer Gruppe beizutreten."},
	}
	email := newComposer(t, func(c *sender.EmailConfig) { c.SubjectPrefix = "" })
	stripTags := strings.NewReplacer("<strong>", "", "</strong>", "", "„", "", "“", "")
	for _, test := range tests {
		m := invitation("ada@example.com")
		m.Locale, m.Data["group_name"], m.Data["inviter_name"] = test.locale, test.group, test.inviter
		data, err := email.Compose(m)
		if err != nil {
			t.Fatal(err)
		}
		p := parse(t, data)
		if p.subject != test.subject {
			t.Errorf("%+v: subject %q", test, p.subject)
		}
		if !strings.Contains(p.text, "\r\n"+test.sentence+"\r\n") {
			t.Errorf("%+v: text\n%s", test, p.text)
		}
		if !strings.Contains(stripTags.Replace(p.html), ">"+stripTags.Replace(test.sentence)+"<") {
			t.Errorf("%+v: html\n%s", test, p.html)
		}
	}
}

func TestTemplates_verifyReadsWellWithoutAppName(t *testing.T) {
	t.Parallel()
	email := newComposer(t, func(c *sender.EmailConfig) { c.SubjectPrefix = "" })
	for locale, subject := range map[string]string{
		"en": "Please confirm your e-mail address", "de": "Bitte bestätigen Sie Ihre E-Mail-Adresse",
	} {
		m := verification("ada@example.com")
		m.Locale = locale
		m.Data["data"] = map[string]any{"link": acceptLink, "app_name": nil}
		data, err := email.Compose(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := parse(t, data).subject; got != subject {
			t.Errorf("%s: subject %q, want %q", locale, got, subject)
		}
	}
}

func TestTemplates_chooseTheNearestLanguage(t *testing.T) {
	t.Parallel()
	email := withTemplates(t, fstest.MapFS{
		"de_AT/greeting.subject":      file("Servus"),
		"de_AT/greeting.txt":          file("{{.locale}}"),
		"de/greeting.subject":         file("Hallo"),
		"de/greeting.txt":             file("{{.locale}}"),
		"en/greeting.subject":         file("Hello"),
		"en/greeting.txt":             file("{{.locale}}"),
		"zh-Hant/greeting.subject":    file("Zh"),
		"zh-Hant/greeting.txt":        file("{{.locale}}"),
		"..data/whatever/file.yaml":   file("not ours"),
		"README.md":                   file("not ours either"),
		"en/.swp":                     file("nor this"),
		"fr/only-french.subject":      file("Salut"),
		"fr/only-french.txt":          file("{{date .data.day}}"),
		"fr/invitation.subject":       file("Invitation"),
		"fr/invitation.txt":           file("{{.link}} {{date .expires_at}}"),
		"de-CH-1996/greeting.txt":     file("x"),
		"de-CH-1996/greeting.subject": file("y"),
	})
	for asked, used := range map[string]string{
		"de-AT": "de-AT", "de_at": "de-AT", "DE-at-1901": "de-AT", "de": "de", "de-DE": "de", "de-u-co-phonebk": "de",
		"en-GB": "en", "": "en", "sv": "en", "zh-Hant-TW": "zh-Hant", "zh-Hans": "en", "x": "en", "---": "en",
	} {
		m := invitation("ada@example.com")
		m.Template, m.Locale = "greeting", asked
		data, err := email.Compose(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(parse(t, data).text); got != used {
			t.Errorf("asked for %q, got %q, want %q", asked, got, used)
		}
	}
}

func TestTemplates_overrideFileByFile(t *testing.T) {
	t.Parallel()
	email := withTemplates(t, fstest.MapFS{"de/invitation.txt": file("Neu: {{.link}}")})
	m := invitation("ada@example.com")
	m.Locale = "de"
	data, err := email.Compose(m)
	if err != nil {
		t.Fatal(err)
	}
	p := parse(t, data)
	if got, want := p.text, "Neu: "+acceptLink+"\r\n"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
	if !strings.Contains(p.html, "Einladung annehmen") || p.subject != "[Engine] Charles lädt Sie ein: Analytical Engine Club" {
		t.Errorf("subject or HTML part changed too: %q\n%s", p.subject, p.html)
	}
}

func TestTemplates_formatDatesByLanguage(t *testing.T) {
	t.Parallel()
	text := file(`{{date .data.day}}`)
	email := withTemplates(t, fstest.MapFS{
		"en/day.subject": file("d"), "en/day.txt": text, "de/day.subject": file("d"), "de/day.txt": text,
		"fr/day.subject": file("d"), "fr/day.txt": text,
	})
	m := invitation("ada@example.com")
	m.Template = "day"
	for _, test := range []struct{ locale, day, want string }{
		{"en", "2026-11-30T13:00:00Z", "30 November 2026"},
		{"de", "2026-03-01T00:30:00+01:00", "28. Februar 2026"}, // the day in UTC
		{"de", "2026-03-01T13:00:00.123Z", "1. März 2026"},
		{"fr", "2026-11-30T13:00:00Z", "2026-11-30"},
	} {
		m.Locale, m.Data["data"] = test.locale, map[string]any{"day": test.day}
		data, err := email.Compose(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(parse(t, data).text); got != test.want {
			t.Errorf("%s %s: %q, want %q", test.locale, test.day, got, test.want)
		}
	}
	for _, bad := range []any{"soon-secret", 7, true} {
		m.Data["data"] = map[string]any{"day": bad}
		if _, err := email.Compose(m); err == nil || strings.Contains(err.Error(), "soon-secret") {
			t.Errorf("%v: the error is %v", bad, err)
		}
	}
}

func TestTemplates_showPlainValues(t *testing.T) {
	t.Parallel()
	email := withTemplates(t, fstest.MapFS{
		"en/values.subject": file("v"),
		"en/values.txt":     file(`{{.data.n}} {{.data.f}} {{range .data.list}}{{.n}},{{end}}{{with index .data "gone"}}no{{end}}`),
	})
	m := invitation("ada@example.com")
	m.Template = "values"
	m.Data["data"] = map[string]any{"n": float64(12000000), "f": 1.5, "gone": nil, "list": []any{map[string]any{"n": 3e9}}}
	data, err := email.Compose(m)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := parse(t, data).text, "12000000 1.5 3000000000,\r\n"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
}

func TestLoadTemplates_reportsAllMistakesTogether(t *testing.T) {
	t.Parallel()
	_, err := sender.LoadTemplates(fstest.MapFS{
		"en/invitation.txt":    file("one\ntwo {{.grup_name}}"),
		"en/verify.html":       file("<p>{{if .data}}{{.link}}{{end}}</p>"),
		"de/invitation.html":   file("<p>\n{{.link</p>"),
		"de/verify.txt":        file("{{$.name}} {{with .data}}{{.anything}}{{$.other}}{{else}}{{.third}}{{end}}"),
		"de/broken.html":       file("<a href='{{if .data.x}}\"'{{end}}>"),
		"fr/hello.html":        file("<p>Bonjour</p>"),
		"it/hello.htm":         file("<p>Buongiorno</p>"),
		"it/Hello.txt":         file("Buongiorno"),
		"english/hello.txt":    file("unused, but its subject is missing"),
		"not a language/a.txt": file(""),
		"pt-BR/x.txt":          file("x"),
		"pt_br/x.subject":      file("x"),
		"es/fn.txt":            file("{{nonsense .data}}"),
		"es/fn.subject":        file("x"),
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"en/invitation.txt:2:6: there is no value .grup_name; there are .data",
		"en/verify.html:1:17: there is no value .link;",
		"de/invitation.html:2: ",
		"de/verify.txt:1:3: there is no value .name;",
		"there is no value .other;",
		"there is no value .third;",
		"de/broken.html",
		"fr/hello.subject is missing",
		"fr/hello.txt is missing",
		"it/hello.htm: a file is called",
		"it/Hello.txt: a file is called",
		"english/hello.subject is missing",
		"not a language: the folder's name is not a language tag",
		"pt-BR and pt_br: two folders for one language",
		`function "nonsense" not defined`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), ".anything") {
		t.Errorf("a value of the application's data cannot be known:\n%v", err)
	}
	if strings.Contains(err.Error(), "es/fn.txt is missing") {
		t.Errorf("a file with a mistake is not missing:\n%v", err)
	}
}

// A message that its template cannot show will not be better tomorrow.
func TestSend_rejectsWhatCannotBeRendered(t *testing.T) {
	t.Parallel()
	email := withTemplates(t, fstest.MapFS{
		"en/boom.subject": file("x"),
		"en/boom.txt":     file(`{{index .data.list 7}}`),
	})
	tests := map[string]struct {
		change func(*outbox.Message)
		words  []string
	}{
		"unknown template": {func(m *outbox.Message) { m.Template = "nope" }, []string{`"nope"`, "languages de, en"}},
		"missing value":    {func(m *outbox.Message) { m.Data["data"] = map[string]any{} }, []string{"verify", "de/verify.txt:5", ".data.link", "de/verify.html"}},
		"null value":       {func(m *outbox.Message) { m.Data["data"] = map[string]any{"link": nil} }, []string{".data.link"}},
		"no data":          {func(m *outbox.Message) { m.Data = nil }, []string{".data.link"}},
		"bad index": {func(m *outbox.Message) {
			m.Template, m.Data = "boom", map[string]any{"data": map[string]any{"list": []any{"secret"}}}
		}, []string{"boom", "en/boom.txt:1", "index"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := verification("ada@example.com")
			m.Locale = "de"
			test.change(m)
			_, err := email.Send(t.Context(), m, noHandover(t))
			if outbox.OutcomeOf(err) != outbox.Rejected {
				t.Errorf("the outcome of %v is %s", err, outbox.OutcomeOf(err))
			}
			if _, ok := errors.AsType[*outbox.SendError](err); !ok {
				t.Errorf("%v is no SendError", err)
			}
			for _, word := range test.words {
				if err == nil || !strings.Contains(err.Error(), word) {
					t.Errorf("%q is missing in: %v", word, err)
				}
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("a value is quoted: %v", err)
			}
		})
	}
}
