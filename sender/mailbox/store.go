package mailbox

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime"
	"net/mail"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-message"
	_ "github.com/emersion/go-message/charset" // so that mails in any character set can be read
)

// Mail is one mail that was kept.
type Mail struct {
	ID         string // in this mailbox, from "1"
	From       string // of the envelope
	To         []string
	ReceivedAt time.Time
	Raw        []byte // as it came, without dot-stuffing

	Subject   string
	MessageID string // without angle brackets
	Header    mail.Header
	Text      string
	HTML      string
}

// store keeps mails, up to a number and a size.
type store struct {
	capacity int
	maxBytes int64

	mu      sync.Mutex
	mails   []Mail
	bytes   int64
	number  int // given out so far
	since   int // number at the last clear
	changed chan struct{}
}

func newStore(capacity int, maxBytes int64) *store {
	return &store{capacity: capacity, maxBytes: maxBytes, changed: make(chan struct{})}
}

func (s *store) add(from string, to []string, raw []byte, at time.Time) {
	m := parse(raw)
	m.From, m.To, m.ReceivedAt = from, slices.Clone(to), at
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number++
	m.ID = strconv.Itoa(s.number)
	s.mails = append(s.mails, m)
	s.bytes += int64(len(raw))
	for len(s.mails) > s.capacity || s.bytes > s.maxBytes && len(s.mails) > 1 {
		s.bytes -= int64(len(s.mails[0].Raw))
		s.mails = slices.Delete(s.mails, 0, 1)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *store) list(to string) []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	if to == "" {
		return slices.Clone(s.mails)
	}
	var found []Mail
	for _, m := range s.mails {
		if slices.ContainsFunc(m.To, func(r string) bool { return strings.EqualFold(r, to) }) {
			found = append(found, m)
		}
	}
	return found
}

func (s *store) get(id string) (Mail, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.mails, func(m Mail) bool { return m.ID == id })
	if i < 0 {
		return Mail{}, false
	}
	return s.mails[i], true
}

func (s *store) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails, s.bytes, s.since = nil, 0, s.number
}

func (s *store) wait(ctx context.Context, n int) ([]Mail, error) {
	for {
		s.mu.Lock()
		kept, changed, mails := s.number-s.since, s.changed, slices.Clone(s.mails)
		s.mu.Unlock()
		if kept >= n {
			return mails, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return mails, fmt.Errorf("%d of %d mails have come: %w", kept, n, ctx.Err())
		}
	}
}

// parse reads what people want to see of a mail. What cannot be read stays
// empty: Raw has it all.
func parse(raw []byte) Mail {
	m := Mail{Raw: bytes.Clone(raw)}
	if parsed, err := mail.ReadMessage(bytes.NewReader(raw)); err == nil {
		m.Header = parsed.Header
		m.Subject = decode(parsed.Header.Get("Subject"))
		m.MessageID = strings.Trim(parsed.Header.Get("Message-Id"), "<> ")
	}
	entity, err := message.Read(bytes.NewReader(raw))
	if entity == nil || err != nil && !message.IsUnknownCharset(err) {
		return m
	}
	_ = entity.Walk(func(_ []int, part *message.Entity, err error) error { // what could be read before an error counts
		if err != nil {
			return err
		}
		kind, _, _ := part.Header.ContentType()
		if kind != "text/plain" && kind != "text/html" {
			return nil
		}
		content, err := io.ReadAll(part.Body)
		if err != nil {
			return err
		}
		if kind == "text/html" && m.HTML == "" {
			m.HTML = string(content)
		} else if kind == "text/plain" && m.Text == "" {
			m.Text = string(content)
		}
		return nil
	})
	return m
}

// decode makes the words of a header field readable (RFC 2047), or leaves them
// as they are.
func decode(field string) string {
	decoder := mime.WordDecoder{CharsetReader: message.CharsetReader}
	if decoded, err := decoder.DecodeHeader(field); err == nil {
		return decoded
	}
	return field
}
