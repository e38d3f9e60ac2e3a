package sender

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailcrane/mailcrane/outbox"
)

// requireSame wants the bytes, and the errors, of the reference.
func requireSame(t *testing.T, email *Email, r reference, m *outbox.Message) {
	t.Helper()
	b := email.buffers.take()
	defer email.buffers.giveBack(b)
	got, gotErr := email.compose(m, b)
	want, wantErr := r.compose(m)
	if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
		t.Errorf("the error is %v, want %v", gotErr, wantErr)
	}
	if wantErr != nil {
		return
	}
	if !bytes.Equal(got.data, want) {
		t.Errorf("the bytes differ:\n%s", cmp.Diff(strings.Split(string(want), "\r\n"), strings.Split(string(got.data), "\r\n")))
	}
	if dots := bytes.Contains(got.data, []byte("\r\n.")); got.dotless == dots {
		t.Errorf("dotless is %t with %d bytes", got.dotless, len(got.data))
	}
}

var mailboxes = []string{
	"club@example.com", "Engine Club <club@example.com>", `"Club, the (best) \"one\"" <club@example.com>`, "Clüb & Söhne. <club@example.com>",
	"Clüb <club@bücher.example>", `"` + strings.Repeat("Long ", 40) + `" <club@example.com>`, `"` + strings.Repeat("x", 990) + `" <club@example.com>`,
	`"` + strings.Repeat("Längst ", 40) + `" <a.very.long.local.part.of.an.address@example.com>`,
}

// free lets the message write all the parts.
func free(t testing.TB) *Templates {
	t.Helper()
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	templates, err := LoadTemplates(fstest.MapFS{
		"en/free.subject": file(`{{.data.a}}`), "en/free.txt": file(`{{.data.b}}`), "en/free.html": file(`{{index .data "link"}}<p>{{.data.b}}</p>`),
		"de/free.subject": file(`{{.data.a}}`), "de/free.txt": file("{{.data.b}}"),
		"fr/free.subject": file(`{{.data.a}}`), "fr/free.txt": file("{{.data.b}}"), "fr/free.html": file(" {{if .data.a}}{{.data.a}}{{end}}\n"),
		"es/free.subject": file(`{{.data.a}}`), "es/free.txt": file("  Words {{.data.b}}\n.line that is as long as it can be, with something before it would be too long.\ntwo=2\n{{.data.a}}\n \t\nend.\n\n"),
		"it/free.subject": file(`{{.data.a}}`), "it/free.txt": file(" Words "),
		"it/free.html": file("<p>{{.data.b}}\n\n.{{with .data.a}}\n<p>\n.{{.}}\r\n<p>\n{{end}}\n.</p> \u00a0"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return templates
}

func TestCompose_isWhatGoMailBuilds(t *testing.T) {
	t.Parallel()
	email, r := newPair(t, mailboxes[1], "[Engine]", free(t))
	for _, locale := range []string{"en", "de", "fr", "es", "it"} {
		for _, odd := range pieces {
			for _, field := range []string{"group_name", "inviter_name", "link", "expires_at"} {
				m := invitationIn(locale)
				m.Data[field] = odd
				requireSame(t, email, r, m)
			}
			m := invitationIn(locale)
			m.Template, m.Data = "verify", map[string]any{"data": map[string]any{"link": "https://x.example/" + odd, "app_name": odd}}
			requireSame(t, email, r, m)
			m.Template, m.Data = "free", map[string]any{"data": map[string]any{"a": odd, "b": odd + "end" + odd}}
			requireSame(t, email, r, m)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
}

// Where a field is folded depends on every length in it.
func TestCompose_foldsAsGoMailDoes(t *testing.T) {
	t.Parallel()
	templates := free(t)
	for _, prefix := range []string{"", "[E]", strings.Repeat("prefix ", 12), "Grüße"} {
		email, r := newPair(t, mailboxes[1], prefix, templates)
		for length := range 160 {
			for _, subject := range []string{
				strings.Repeat("w", length), "w " + strings.Repeat("w", length) + " w", "ü" + strings.Repeat("w", length),
				strings.Repeat("wörd ", length/5) + "x", strings.Repeat("word ", length/5) + strings.Repeat("x", length%7),
			} {
				m := invitationIn("de")
				m.Template, m.Data = "free", map[string]any{"data": map[string]any{"a": subject, "b": "text"}}
				m.HeaderMessageID = strings.Repeat("i", 1+length) + "@example.com"
				m.Recipient = strings.Repeat("r", 1+length%64) + "@" + strings.Repeat("example.", 1+length/12) + "com"
				requireSame(t, email, r, m)
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
}

// anyMessage makes a message that may be wrong in every respect.
func anyMessage(c *chooser) *outbox.Message {
	m := invitationIn(oneOf(c, []string{"en", "de", "fr", "es", "it", "de-AT", "sv", "EN_gb", ""}))
	switch c.below(4) {
	case 0:
		m.Template = "verify"
	case 1:
		m.Template = "free"
	}
	for _, field := range []string{"group_name", "inviter_name", "link", "expires_at"} {
		if c.below(2) == 1 {
			m.Data[field] = c.value()
		}
	}
	m.Data["data"] = oneOf(c, []any{nil, "no object", map[string]string{"a": "b"}, map[string]any{}})
	if c.below(4) > 0 {
		m.Data["data"] = map[string]any{"a": c.value(), "b": c.value(), "link": c.value(), "app_name": c.value()}
	}
	if c.below(4) == 1 { // there are values that cannot be overridden
		m.Data["recipient"], m.Data["locale"] = c.value(), c.text()
	}
	if c.below(8) == 1 {
		m.HeaderMessageID = c.text() + "@" + c.text()
	}
	if c.below(8) == 1 {
		m.Recipient = c.text() + oneOf(c, []string{"ada", "a.b", ""}) + "@" + c.text() + oneOf(c, []string{"example.com", "Bücher.example", "xn--a.de"})
	}
	m.Date = m.Date.Add(time.Duration(c.below(256)) * 200 * time.Hour)
	return m
}

func checkCompose(t *testing.T, templates *Templates, choices []byte) {
	c := &chooser{bytes: choices}
	email, r := newPair(t, oneOf(c, mailboxes), oneOf(c, append([]string{"", "[Engine]"}, pieces...)), templates)
	requireSame(t, email, r, anyMessage(c))
}

func TestCompose_isWhatGoMailBuildsByChance(t *testing.T) {
	t.Parallel()
	templates := free(t)
	byChance(t, 3000, func(t *testing.T, choices []byte) { checkCompose(t, templates, choices) })
}

func FuzzCompose(f *testing.F) {
	templates := free(f)
	for i := range 32 {
		f.Add(bytes.Repeat([]byte{byte(i), byte(i * 7), byte(i * 31)}, 12))
	}
	f.Fuzz(func(t *testing.T, choices []byte) { checkCompose(t, templates, choices) })
}

// An envelope's bytes are those of its message until it is given back.
func TestCompose_buffersAreNotShared(t *testing.T) {
	t.Parallel()
	email, r := newPair(t, mailboxes[1], "", embeddedTemplates(t))
	first, second := invitationIn("en"), invitationIn("de")
	b1, b2 := email.buffers.take(), email.buffers.take()
	one, err1 := email.compose(first, b1)
	two, err2 := email.compose(second, b2)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	preview, err := email.Compose(first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := email.Compose(second); err != nil {
		t.Fatal(err)
	}
	wantOne, _ := r.compose(first)
	wantTwo, _ := r.compose(second)
	if !bytes.Equal(one.data, wantOne) || !bytes.Equal(two.data, wantTwo) || !bytes.Equal(preview, wantOne) {
		t.Error("one message has written over another")
	}
}

func embeddedTemplates(t testing.TB) *Templates {
	t.Helper()
	templates, err := LoadTemplates(nil)
	if err != nil {
		t.Fatal(err)
	}
	return templates
}

func TestBuffers_forgetsBigOnes(t *testing.T) {
	t.Parallel()
	var b buffers
	big := &buffer{mail: make([]byte, 0, maxKept+1)}
	b.giveBack(big)
	if b.take() == big {
		t.Error("it is kept")
	}
}

// The speed of sending rests on this.
func TestCompose_allocatesLittle(t *testing.T) {
	email, _ := newPair(t, mailboxes[1], "[Engine]", embeddedTemplates(t))
	for _, locale := range []string{"en", "de", "de-AT"} {
		m := invitationIn(locale)
		allocations := testing.AllocsPerRun(100, func() {
			b := email.buffers.take()
			if _, err := email.compose(m, b); err != nil {
				t.Error(err)
			}
			email.buffers.giveBack(b)
		})
		if allocations >= 30 {
			t.Errorf("%s: %v allocations", locale, allocations)
		}
	}
}
