package sender_test

import (
	"bytes"
	"flag"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
)

var update = flag.Bool("update", false, "write the golden files in testdata")

const acceptLink = "https://app.example.com/accept?token=abc&lang=x"

// invitation is the message that most tests send.
func invitation(to string) *outbox.Message {
	return &outbox.Message{
		ID:              "01890a5d-ac96-774b-bcce-b302099a8057",
		Tenant:          "default",
		Channel:         "email",
		Template:        "invitation",
		Locale:          "en",
		Recipient:       to,
		HeaderMessageID: "01890a5d-ac96-774b-bcce-b302099a8057@mail.example.com",
		Date:            time.Date(2026, 11, 23, 13, 0, 0, 0, time.UTC),
		Data: map[string]any{
			"group_id": "42", "group_name": "Analytical Engine Club", "email": to,
			"inviter_id": "7", "inviter_name": "Charles", "link": acceptLink,
			"expires_at": "2026-11-30T13:00:00Z", "data": map[string]any{},
		},
		Attempt: 1,
	}
}

func verification(to string) *outbox.Message {
	m := invitation(to)
	m.Template = "verify"
	m.Data = map[string]any{"data": map[string]any{"link": acceptLink, "app_name": "Engine"}}
	return m
}

// compose gives the bytes of m, from a sender that needs no relay.
func compose(t testing.TB, m *outbox.Message, change ...func(*sender.EmailConfig)) []byte {
	t.Helper()
	data, err := newComposer(t, change...).Compose(m)
	if err != nil {
		t.Fatalf("compose: %v", err)
	}
	return data
}

func newComposer(t testing.TB, change ...func(*sender.EmailConfig)) *sender.Email {
	t.Helper()
	relays, err := sender.ParseRelays("smtp://127.0.0.1:1?tls=none")
	if err != nil {
		t.Fatal(err)
	}
	cfg := sender.EmailConfig{Relays: relays, From: "Engine Club <club@example.com>", SubjectPrefix: "[Engine]"}
	for _, f := range change {
		f(&cfg)
	}
	email, err := sender.NewEmail(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = email.Close() })
	return email
}

func TestCompose_matchesGoldenFiles(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		message *outbox.Message
		locale  string
	}{
		"invitation.en": {invitation("ada@example.com"), "en"},
		"invitation.de": {invitation("ada@example.com"), "de-AT"},
		"verify.en":     {verification("ada@example.com"), "en"},
		"verify.de":     {verification("ada@example.com"), "de"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.message.Locale = test.locale
			got := compose(t, test.message)
			golden := filepath.Join("testdata", name+".eml")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("differs from %s (run with -update if that is right):\n%s", golden, diff)
			}
			checkWireForm(t, got)
			parsed := parse(t, got)
			for _, part := range []string{parsed.text, strings.ReplaceAll(parsed.html, "&amp;", "&")} {
				if !strings.Contains(part, acceptLink) {
					t.Errorf("the link is missing in:\n%s", part)
				}
			}
			if lang := `<html lang="` + strings.TrimPrefix(filepath.Ext(name), ".") + `">`; !strings.Contains(parsed.html, lang) {
				t.Errorf("%s is missing in:\n%s", lang, parsed.html)
			}
		})
	}
}

// checkWireForm wants what RFC 5321 and RFC 5322 want of the bytes.
func checkWireForm(t *testing.T, data []byte) {
	t.Helper()
	rest := bytes.ReplaceAll(data, []byte("\r\n"), nil)
	if bytes.ContainsAny(rest, "\r\n") {
		t.Error("there is a CR or LF alone")
	}
	if !bytes.HasSuffix(data, []byte("\r\n")) {
		t.Error("the last line is not complete")
	}
	for line := range bytes.SplitSeq(data, []byte("\r\n")) {
		if len(line) > 998 {
			t.Errorf("a line has %d characters", len(line))
		}
	}
	for i, b := range data {
		if b > 0x7f {
			t.Fatalf("byte %d is beyond ASCII", i)
		}
	}
}

type parsedMail struct {
	header     mail.Header
	subject    string
	text, html string
}

// parse reads a mail back with the standard library.
func parse(t *testing.T, data []byte) parsedMail {
	t.Helper()
	msg, err := mail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("read message: %v", err)
	}
	p := parsedMail{header: msg.Header}
	if p.subject, err = new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject")); err != nil {
		t.Fatal(err)
	}
	mediaType, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	if mediaType == "text/plain" {
		p.text = read(t, quotedprintable.NewReader(msg.Body))
		return p
	}
	if mediaType != "multipart/alternative" {
		t.Fatalf("the content type is %q", mediaType)
	}
	var types []string
	for reader := multipart.NewReader(msg.Body, params["boundary"]); ; {
		part, err := reader.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if encoding := part.Header.Get("Content-Transfer-Encoding"); encoding != "quoted-printable" {
			t.Errorf("the encoding is %q", encoding)
		}
		types = append(types, part.Header.Get("Content-Type"))
		if strings.HasPrefix(types[len(types)-1], "text/html") {
			p.html = read(t, quotedprintable.NewReader(part))
		} else {
			p.text = read(t, quotedprintable.NewReader(part))
		}
	}
	if want := []string{"text/plain; charset=UTF-8", "text/html; charset=UTF-8"}; !cmp.Equal(types, want) {
		t.Errorf("the parts are %q, want %q", types, want)
	}
	return p
}

func read(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCompose_setsTheHeadersOfAnAutomaticMail(t *testing.T) {
	t.Parallel()
	p := parse(t, compose(t, invitation("ada@example.com")))
	want := map[string]string{
		"From":                     `"Engine Club" <club@example.com>`,
		"To":                       "<ada@example.com>",
		"Subject":                  "[Engine] Charles invites you to join Analytical Engine Club",
		"Message-Id":               "<01890a5d-ac96-774b-bcce-b302099a8057@mail.example.com>",
		"Date":                     "Mon, 23 Nov 2026 13:00:00 +0000",
		"Auto-Submitted":           "auto-generated",
		"X-Auto-Response-Suppress": "All",
		"Mime-Version":             "1.0",
	}
	for name, value := range want {
		if got := p.header.Get(name); got != value {
			t.Errorf("%s: %s, want %s", name, got, value)
		}
	}
	for _, name := range []string{"User-Agent", "X-Mailer", "Precedence"} {
		if got := p.header.Get(name); got != "" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// The copies that receivers see must be recognisable as such: another attempt,
// another sender, another process in another time zone.
func TestCompose_givesTheSameBytesOnEveryAttempt(t *testing.T) {
	t.Parallel()
	first := invitation("ada@example.com")
	second := invitation("ada@example.com")
	second.Attempt = 7
	second.Date = second.Date.In(time.FixedZone("far", 9*3600))
	want := compose(t, first)
	if got := compose(t, second); !bytes.Equal(got, want) {
		t.Errorf("another sender gives other bytes:\n%s", cmp.Diff(string(want), string(got)))
	}
	if file := os.Getenv("MAILCRANE_TEST_COMPOSE"); file != "" {
		if err := os.WriteFile(file, want, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	file := filepath.Join(t.TempDir(), "mail")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCompose_givesTheSameBytesOnEveryAttempt$")
	cmd.Env = append(os.Environ(), "MAILCRANE_TEST_COMPOSE="+file, "TZ=Asia/Tokyo", "LANG=de_DE.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("second process: %v\n%s", err, out)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("another process gives other bytes:\n%s", cmp.Diff(string(want), string(got)))
	}
}

func TestCompose_givesOtherMessagesOtherBoundaries(t *testing.T) {
	t.Parallel()
	boundary := func(id string) string {
		m := invitation("ada@example.com")
		m.HeaderMessageID = id
		_, params, err := mime.ParseMediaType(parse(t, compose(t, m)).header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		return params["boundary"]
	}
	if a, b := boundary("a@example.com"), boundary("b@example.com"); a == b {
		t.Errorf("both have %q", a)
	}
}

// Names come from users. Whatever they hold, no header may appear or change.
func TestCompose_isProofAgainstHeaderInjection(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"Club\r\nBcc: victim@example.com", "Club\nBcc: victim@example.com", "Club\rBcc: victim@example.com",
		"Club\r\n\r\n<h1>body</h1>", "Club\u2028Bcc: victim@example.com", "Club\x00\x0b\x0cBcc: victim@example.com",
		"=?utf-8?q?Club=0D=0ABcc:_victim@example.com?=", strings.Repeat("Club ", 300), strings.Repeat("Çlüb", 300),
	} {
		m := invitation("ada@example.com")
		m.Data["group_name"] = name
		data := compose(t, m)
		checkWireForm(t, data)
		p := parse(t, data)
		if got := len(p.header); got != 9 {
			t.Errorf("%.40q: there are %d header fields: %v", name, got, p.header)
		}
		if strings.ContainsAny(p.subject, "\r\n") || !strings.HasPrefix(p.subject, "[Engine] Charles invites you to join") {
			t.Errorf("%.40q: the subject is %q", name, p.subject)
		}
		if p.header.Get("Bcc") != "" {
			t.Errorf("%.40q: there is a Bcc", name)
		}
	}
}

func TestCompose_escapesHTML(t *testing.T) {
	t.Parallel()
	m := invitation("ada@example.com")
	m.Data["group_name"] = `<script>alert("x")</script>`
	m.Data["link"] = "javascript:alert(1)"
	p := parse(t, compose(t, m))
	if strings.Contains(p.html, "<script>") || strings.Contains(p.html, `href="javascript:`) {
		t.Errorf("not escaped:\n%s", p.html)
	}
	if !strings.Contains(p.text, `<script>alert("x")</script>`) {
		t.Errorf("plain text needs no escaping:\n%s", p.text)
	}
}

func TestCompose_writesTheDomainInALabels(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"ada@bücher.example":        "<ada@xn--bcher-kva.example>",
		"ada@BÜCHER.example":        "<ada@xn--bcher-kva.example>",
		"ada@faß.example":           "<ada@xn--fa-hia.example>",
		"Ada.L+x@example.com":       "<Ada.L+x@example.com>",
		"o'neil_!#$%&@example.com":  "<o'neil_!#$%&@example.com>",
		"ada@例え.テスト":                "<ada@xn--r8jz45g.xn--zckzah>",
		"ada@xn--bcher-kva.example": "<ada@xn--bcher-kva.example>",
	} {
		if got := parse(t, compose(t, invitation(address))).header.Get("To"); got != want {
			t.Errorf("%s: To: %s, want %s", address, got, want)
		}
	}
}

func TestCompose_refusesAddressesWithoutQuotingThem(t *testing.T) {
	t.Parallel()
	email := newComposer(t)
	for _, address := range []string{
		"", "ada", "@example.com", "ada@", "Ada <ada@example.com>", "ada@example.com\r\nRCPT TO:<eve@example.com>",
		"ada@example.com>", "ada lovelace@example.com", `"ada"@example.com`, "ada..l@example.com", ".ada@example.com",
		"ada@[127.0.0.1]", "ada@exa_mple.com", "ada@-example.com", "ada@example..com", "ada@example.com.", "adä@example.com",
		"ada@xn--a.example", "ada@\u202eexample.com", strings.Repeat("a", 65) + "@example.com",
		"ada@" + strings.Repeat("a", 64) + ".com", "ada@" + strings.Repeat("a.", 130) + "com", "ada@a b.com", "a@b@",
	} {
		_, err := email.Compose(invitation(address))
		if err == nil {
			t.Errorf("%q is accepted", address)
		} else if len(address) > 4 && strings.Contains(err.Error(), address) {
			t.Errorf("%q is quoted: %v", address, err)
		}
	}
}

func TestCompose_refusesABadMessageID(t *testing.T) {
	t.Parallel()
	email := newComposer(t)
	for _, id := range []string{"", "a", "@", "a@", "<a@b>", "a b@c", "a@b\r\nBcc: x", "ä@b", strings.Repeat("a", 250) + "@b"} {
		m := invitation("ada@example.com")
		m.HeaderMessageID = id
		if _, err := email.Compose(m); err == nil {
			t.Errorf("%q is accepted", id)
		}
	}
}

func TestCompose_withoutHTMLIsPlainText(t *testing.T) {
	t.Parallel()
	templates := load(t, fstest.MapFS{
		"en/note.subject": file("Hello"),
		"en/note.txt":     file(".leading dot\n..two\nlast\u00e4"),
	})
	m := invitation("ada@example.com")
	m.Template = "note"
	data := compose(t, m, func(c *sender.EmailConfig) { c.Templates = templates })
	checkWireForm(t, data)
	if got, want := parse(t, data).text, ".leading dot\r\n..two\r\nlast\u00e4\r\n"; got != want {
		t.Errorf("text is %q, want %q", got, want)
	}
}

func TestCompose_refusesALineThatSMTPCannotCarry(t *testing.T) {
	t.Parallel()
	m := invitation("ada@example.com")
	m.Data["group_name"] = strings.Repeat("a", 2000) // one word, which nothing can fold
	_, err := newComposer(t).Compose(m)
	if err == nil || !strings.Contains(err.Error(), "longer than 998") {
		t.Errorf("the error is %v", err)
	}
}
