package sender

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mailcrane/mailcrane/outbox"
)

// maxLine is the longest line that SMTP carries, without its CRLF (RFC 5322
// section 2.1.1).
const maxLine = 998

// compose renders m and builds its bytes in b, completely and before any
// connection is used. A failure here will not go away by itself.
func (e *Email) compose(m *outbox.Message, b *buffer) (envelope, error) {
	to, err := asciiAddress(m.Recipient)
	if err != nil {
		return envelope{}, fmt.Errorf("the recipient's address %w", err)
	}
	page, err := e.templates.render(b, m)
	if err != nil {
		return envelope{}, err
	}
	page.subject = strings.TrimSpace(e.prefix + " " + page.subject)
	b.mail, err = e.letterhead.build(b.mail[:0], m, to, page)
	if err != nil {
		return envelope{}, fmt.Errorf("build message: %w", err)
	}
	return envelope{flow: flow{m.Tenant, m.Priority}, from: e.envelopeFrom, to: to, data: b.mail, dotless: !page.dots, secrets: links(m)}, nil
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

// checkLines is the last look at what goes out: whatever a template or a library
// did, these are complete lines of ASCII, none too long, and no CR or LF alone.
func checkLines(data []byte) error {
	if orderly(data) {
		return nil
	}
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

// orderly says that data is lines of printable ASCII, as checkLines wants them,
// which most data is.
func orderly(data []byte) bool {
	for len(data) > 0 {
		n := bytes.IndexByte(data, '\n')
		if n < 1 || n > maxLine+1 || data[n-1] != '\r' {
			return false
		}
		for _, b := range data[:n-1] {
			if b < ' ' || b > '~' {
				return false
			}
		}
		data = data[n+1:]
	}
	return true
}

// oneLine makes a header's value of s: one line, without control characters, and
// without anything that reads as an encoded word (RFC 2047) of its own.
func oneLine(s string) string {
	if s = strings.TrimSpace(s); isOneLine(s) {
		return s
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "=?", "= ?")
}

// isOneLine says that oneLine has nothing to do.
func isOneLine(s string) bool {
	last := ' '
	for i, r := range s {
		switch {
		case r == ' ' && last == ' ', r == '?' && last == '=', unicode.IsControl(r), r != ' ' && unicode.IsSpace(r):
			return false
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			return false
		}
		last = r
	}
	return s == "" || last != ' '
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
