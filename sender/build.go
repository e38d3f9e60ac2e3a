package sender

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	stdmail "net/mail"
	"strings"
	"unicode"

	"github.com/wneessen/go-mail"

	"github.com/mailcrane/mailcrane/outbox"
)

// maxLine is the longest line that SMTP carries, without its CRLF (RFC 5322
// section 2.1.1).
const maxLine = 998

// compose renders m and builds its bytes, completely and before any connection
// is used. A failure here will not go away by itself.
func (e *Email) compose(m *outbox.Message) (envelope, error) {
	to, err := asciiAddress(m.Recipient)
	if err != nil {
		return envelope{}, fmt.Errorf("the recipient's address %w", err)
	}
	page, err := e.templates.render(m)
	if err != nil {
		return envelope{}, err
	}
	page.subject = strings.TrimSpace(e.prefix + " " + page.subject)
	data, err := e.build(m, to, page)
	if err != nil {
		return envelope{}, fmt.Errorf("build message: %w", err)
	}
	return envelope{from: e.envelopeFrom, to: to, data: data, secrets: links(m)}, nil
}

// build gives the message as RFC 5322 and MIME want it. Everything in it depends
// on the message alone, the boundary too: receivers recognise copies by their
// bytes.
func (e *Email) build(m *outbox.Message, to string, page page) ([]byte, error) {
	if err := checkMessageID(m.HeaderMessageID); err != nil {
		return nil, err
	}
	msg := mail.NewMsg(mail.WithCharset(mail.CharsetUTF8), mail.WithEncoding(mail.EncodingQP),
		mail.WithBoundary(boundary(m.HeaderMessageID)), mail.WithNoDefaultUserAgent())
	msg.FromMailAddress(&e.from)
	msg.ToMailAddress(&stdmail.Address{Address: to})
	msg.Subject(page.subject)
	msg.SetMessageIDWithValue(m.HeaderMessageID)
	msg.SetDateWithValue(m.Date.UTC())
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834 section 5
	msg.SetGenHeader(mail.HeaderXAutoResponseSuppress, "All")
	msg.SetBodyString(mail.TypeTextPlain, page.text)
	if page.html != "" {
		msg.AddAlternativeString(mail.TypeTextHTML, page.html)
	}
	var b bytes.Buffer
	if _, err := msg.WriteTo(&b); err != nil {
		return nil, err
	}
	if !bytes.HasSuffix(b.Bytes(), []byte("\r\n")) {
		b.WriteString("\r\n")
	}
	return b.Bytes(), checkLines(b.Bytes())
}

// checkMessageID wants the part of a Message-ID between the angle brackets (RFC
// 5322 section 3.6.4).
func checkMessageID(id string) error {
	left, right, ok := strings.Cut(id, "@")
	if !ok || left == "" || right == "" || len(id) > 250 ||
		strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' || r == '<' || r == '>' }) {
		return errors.New("the Message-ID is not of the form left@right")
	}
	return nil
}

// boundary derives the line between the parts from the Message-ID.
func boundary(messageID string) string {
	sum := sha256.Sum256([]byte("boundary " + messageID))
	return "mailcrane-" + hex.EncodeToString(sum[:16])
}

// checkLines is the last look at what goes out: whatever a template or a library
// did, these are complete lines of ASCII, none too long, and no CR or LF alone.
func checkLines(data []byte) error {
	for line := range bytes.SplitSeq(bytes.TrimSuffix(data, []byte("\r\n")), []byte("\r\n")) {
		switch {
		case len(line) > maxLine:
			return fmt.Errorf("a line of it is longer than %d characters", maxLine)
		case bytes.ContainsAny(line, "\r\n\x00"):
			return errors.New("it holds a line end that is not CRLF, or a NUL")
		case bytes.ContainsFunc(line, func(r rune) bool { return r > unicode.MaxASCII }):
			return errors.New("it holds characters beyond ASCII without encoding")
		}
	}
	return nil
}

// oneLine makes a header's value of s: one line, without control characters, and
// without anything that reads as an encoded word (RFC 2047) of its own.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "=?", "= ?")
}

// links gives the links in m that open something for whoever holds them.
func links(m *outbox.Message) []string {
	var found []string
	data, _ := m.Data["data"].(map[string]any)
	for _, v := range []any{m.Data["link"], data["link"]} {
		link, _ := v.(string)
		if _, path, ok := strings.Cut(link, "://"); ok && path != "" {
			found = append(found, link, path)
		}
	}
	return found
}
