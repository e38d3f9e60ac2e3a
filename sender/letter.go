package sender

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"mime"
	"net/mail"
	"strings"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// letterhead builds messages as RFC 5322 and MIME want them. Everything in one
// depends on the message alone, the boundary too: receivers recognise copies by
// their bytes. For the same reason they are the bytes of go-mail, which built the
// messages up to now and builds those that the tests compare with: the order of
// the fields, where they are folded, how they are encoded.
type letterhead struct {
	sender string // the fields after the subject that are the same in each message
}

func newLetterhead(from mail.Address) letterhead {
	fields := appendField(nil, "X-Auto-Response-Suppress", "All")
	return letterhead{sender: string(appendField(fields, "From", from.String()))}
}

// build appends the message to dst.
func (l letterhead) build(dst []byte, m *outbox.Message, to string, page page) ([]byte, error) {
	if err := checkMessageID(m.HeaderMessageID); err != nil {
		return dst, err
	}
	dst = append(dst, "Auto-Submitted: auto-generated\r\nDate: "...) // RFC 3834 section 5
	dst = m.Date.UTC().AppendFormat(dst, time.RFC1123Z)
	dst = append(dst, "\r\nMIME-Version: 1.0\r\n"...)
	dst = appendField(dst, "Message-ID", "<"+m.HeaderMessageID+">")
	dst = appendField(dst, "Subject", mime.QEncoding.Encode("UTF-8", page.subject))
	dst = append(dst, l.sender...)
	dst = appendField(dst, "To", "<"+to+">")
	// What follows cannot be otherwise than that check wants it.
	if err := checkLines(dst); err != nil {
		return dst, err
	}
	if page.html != nil {
		return appendAlternatives(dst, m.HeaderMessageID, page), nil
	}
	dst = append(dst, "Content-Transfer-Encoding: quoted-printable\r\nContent-Type: text/plain; charset=UTF-8\r\n\r\n"...)
	dst = append(dst, page.text...)
	if !bytes.HasSuffix(dst, []byte("\r\n")) {
		dst = append(dst, "\r\n"...)
	}
	return dst, nil
}

// appendAlternatives appends a text and an HTML part, and the field that
// announces them.
func appendAlternatives(dst []byte, messageID string, page page) []byte {
	const encoding = "\r\nContent-Transfer-Encoding: quoted-printable\r\nContent-Type: "
	var memory [64]byte
	boundary := appendBoundary(memory[:0], messageID)
	dst = append(append(dst, "Content-Type: multipart/alternative;\r\n boundary="...), boundary...)
	dst = append(append(dst, "\r\n\r\n--"...), boundary...)
	dst = append(dst, encoding+"text/plain; charset=UTF-8\r\n\r\n"...)
	dst = append(dst, page.text...)
	dst = append(append(dst, "\r\n--"...), boundary...)
	dst = append(dst, encoding+"text/html; charset=UTF-8\r\n\r\n"...)
	dst = append(dst, page.html...)
	dst = append(append(dst, "\r\n--"...), boundary...)
	return append(dst, "--\r\n"...)
}

// appendBoundary derives the line between the parts from the Message-ID.
func appendBoundary(dst []byte, messageID string) []byte {
	var memory [300]byte
	sum := sha256.Sum256(append(append(memory[:0], "boundary "...), messageID...))
	return hex.AppendEncode(append(dst, "mailcrane-"...), sum[:16])
}

// appendField appends a header field, folded where a line would become longer
// than 76 characters, if there is a space.
func appendField(dst []byte, name, value string) []byte {
	const width = 76
	room := width - 2 - len(name) - 2
	dst = append(append(dst, name...), ": "...)
	for more := true; more; {
		var word string
		word, value, more = strings.Cut(value, " ")
		if room-len(word) <= 1 {
			dst = append(bytes.TrimSuffix(dst, []byte(" ")), "\r\n "...)
			room = width - 3
		}
		dst = append(dst, word...)
		room -= len(word)
		if more {
			dst = append(dst, ' ')
			room--
		}
	}
	return append(dst, "\r\n"...)
}
