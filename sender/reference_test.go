package sender

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"testing"
	"time"

	gomail "github.com/wneessen/go-mail"
	"golang.org/x/net/idna"

	"github.com/mailcrane/mailcrane/outbox"
)

// reference composes messages in the straightforward way: Execute of the
// templates, and go-mail. It is what messages must be like.
type reference struct {
	from      mail.Address
	prefix    string
	templates *Templates
}

func newReference(t testing.TB, from, prefix string, templates *Templates) reference {
	t.Helper()
	address, err := parseMailbox(from)
	if err != nil {
		t.Fatal(err)
	}
	return reference{from: address, prefix: oneLine(prefix), templates: templates}
}

// newPair gives the sender and the reference of one configuration.
func newPair(t testing.TB, from, prefix string, templates *Templates) (*Email, reference) {
	t.Helper()
	relays, err := ParseRelays("smtp://127.0.0.1:1?tls=none")
	if err != nil {
		t.Fatal(err)
	}
	email, err := NewEmail(EmailConfig{Relays: relays, From: from, SubjectPrefix: prefix, Templates: templates})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = email.Close() })
	return email, newReference(t, from, prefix, templates)
}

func (r reference) compose(m *outbox.Message) ([]byte, error) {
	to, err := referenceAddress(m.Recipient)
	if err != nil {
		return nil, fmt.Errorf("the recipient's address %w", err)
	}
	subject, text, html, err := r.render(m)
	if err != nil {
		return nil, err
	}
	subject = strings.TrimSpace(r.prefix + " " + subject)
	data, err := r.build(m, to, subject, text, html)
	if err != nil {
		return nil, fmt.Errorf("build message: %w", err)
	}
	return data, nil
}

// render knows no programs, and nothing of what they are made with.
func (r reference) render(m *outbox.Message) (subject, text, html string, err error) {
	tmpl, err := r.templates.lookup(m.Template, m.Locale)
	if err != nil {
		return "", "", "", err
	}
	values := values(m, tmpl.locale)
	var problems [3]error
	subject, problems[0] = referenceExecute(tmpl.subject.tmpl, values)
	text, problems[1] = referenceExecute(tmpl.text.tmpl, values)
	if tmpl.html != nil {
		html, problems[2] = referenceExecute(tmpl.html.tmpl, values)
	}
	if err := errors.Join(problems[:]...); err != nil {
		return "", "", "", fmt.Errorf("render template %s in %s: %w", tmpl.name, tmpl.locale, err)
	}
	html = strings.TrimSpace(html)
	if html != "" {
		html += "\n"
	}
	return referenceLine(subject), strings.TrimSpace(text) + "\n", html, nil
}

func referenceExecute(tmpl executor, values map[string]any) (out string, err error) {
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

func (r reference) build(m *outbox.Message, to, subject, text, html string) ([]byte, error) {
	if err := checkMessageID(m.HeaderMessageID); err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte("boundary " + m.HeaderMessageID))
	msg := gomail.NewMsg(gomail.WithCharset(gomail.CharsetUTF8), gomail.WithEncoding(gomail.EncodingQP),
		gomail.WithBoundary("mailcrane-"+hex.EncodeToString(sum[:16])), gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(&r.from)
	msg.ToMailAddress(&mail.Address{Address: to})
	msg.Subject(subject)
	msg.SetMessageIDWithValue(m.HeaderMessageID)
	msg.SetDateWithValue(m.Date.UTC())
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetGenHeader(gomail.HeaderXAutoResponseSuppress, "All")
	msg.SetBodyString(gomail.TypeTextPlain, text)
	if html != "" {
		msg.AddAlternativeString(gomail.TypeTextHTML, html)
	}
	var b bytes.Buffer
	if _, err := msg.WriteTo(&b); err != nil {
		return nil, err
	}
	if !bytes.HasSuffix(b.Bytes(), []byte("\r\n")) {
		b.WriteString("\r\n")
	}
	return b.Bytes(), referenceCheck(b.Bytes())
}

// referenceCheck looks at every line, and at each of them with care.
func referenceCheck(data []byte) error {
	for line := range strings.SplitSeq(strings.TrimSuffix(string(data), "\r\n"), "\r\n") {
		switch {
		case len(line) > 998:
			return errors.New("a line of it is longer than 998 characters")
		case strings.ContainsAny(line, "\r\n\x00"):
			return errors.New("it holds a line end that is not CRLF, or a NUL")
		case strings.ContainsFunc(line, func(r rune) bool { return r > 0x7f }):
			return errors.New("it holds characters beyond ASCII without encoding")
		}
	}
	return nil
}

func referenceAddress(address string) (string, error) {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return "", errors.New("has no @")
	}
	local, domain := address[:at], address[at+1:]
	if len(local) > 64 || strings.HasPrefix(local, ".") || strings.HasSuffix(local, ".") || strings.Contains(local, "..") ||
		local == "" || strings.ContainsFunc(local, func(r rune) bool { return r != '.' && !isAtomText(r) }) {
		return "", errors.New("has a local part that is not made of plain ASCII letters, digits, dots and signs")
	}
	ascii, err := idna.Lookup.ToASCII(domain)
	if err != nil || !isDomain(ascii) {
		return "", errors.New("has a domain that is no domain name")
	}
	if back, err := idna.Lookup.ToUnicode(ascii); strings.ContainsFunc(domain, func(r rune) bool { return r >= 0x80 }) && (err != nil || back != strings.ToLower(domain) || strings.ContainsFunc(domain, isOtherASCII)) {
		return "", errors.New("has a domain with characters that are not as IDNA2008 writes them, such as full-width letters")
	}
	if len(local)+1+len(ascii) > 254 {
		return "", errors.New("is longer than 254 characters")
	}
	return local + "@" + ascii, nil
}

// referenceLine is oneLine, step by step.
func referenceLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || 0x7f <= r && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "=?", "= ?")
}

// invitationIn is an ordinary message.
func invitationIn(locale string) *outbox.Message {
	return &outbox.Message{
		Template: "invitation", Locale: locale, Recipient: "ada@example.com",
		HeaderMessageID: "01890a5d-ac96-774b-bcce-b302099a8057@mail.example.com",
		Date:            time.Date(2026, 11, 23, 13, 0, 0, 0, time.UTC),
		Data: map[string]any{
			"group_id": "42", "group_name": "Analytical Engine Club", "email": "ada@example.com",
			"inviter_id": "7", "inviter_name": "Charles",
			"link":       "https://app.example.com/accept?token=7kV0Xq3mB9yJ2nLr&lang=x",
			"expires_at": "2026-11-30T13:00:00Z", "data": map[string]any{},
		},
	}
}
