package sender

import (
	"bufio"
	"cmp"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mailcrane/mailcrane/outbox"
)

// What a relay may say in one reply. RFC 5321 section 4.5.3.1.5 allows lines of
// 512 octets; a hostile relay must not fill our memory.
const (
	maxReplyLines = 128
	maxReplyText  = 512
	maxWireReply  = 64 << 10
)

var (
	errGarbled = errors.New("the relay's reply cannot be read")
	errEndless = errors.New("the relay's reply has no end")
)

// readReply reads one reply of one or more lines (RFC 5321 section 4.2). An
// error means that there was no reply, or none that can be read. Secrets are kept
// out of its text.
func readReply(r *bufio.Reader, secrets ...string) (outbox.Reply, error) {
	var reply outbox.Reply
	text := ""
	for i := range maxReplyLines {
		line, err := readLine(r)
		if err != nil {
			return outbox.Reply{}, err
		}
		code, more, rest, ok := cutReplyLine(line)
		if !ok || reply.Code != 0 && reply.Code != code {
			return outbox.Reply{}, errGarbled
		}
		enhanced, rest := cutEnhanced(code, rest)
		reply.Code, reply.Enhanced = code, cmp.Or(reply.Enhanced, enhanced)
		switch {
		case i == 0:
			text = rest
		case len(text) < 4*maxReplyText:
			text += " " + rest
		}
		if !more {
			reply.Text = clean(text, secrets...)
			return reply, nil
		}
	}
	return outbox.Reply{}, errEndless
}

// readLine gives one line without its end. Of a line longer than the reader's
// buffer only the beginning is kept: the code is what matters.
func readLine(r *bufio.Reader) (string, error) {
	part, err := r.ReadSlice('\n')
	line := string(part)
	for discarded := 0; errors.Is(err, bufio.ErrBufferFull); discarded += len(part) {
		if discarded > maxWireReply {
			return "", errEndless
		}
		part, err = r.ReadSlice('\n')
	}
	if err != nil {
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// cutReplyLine takes "250-text" apart.
func cutReplyLine(line string) (code int, more bool, text string, ok bool) {
	if len(line) < 3 || line[0] < '1' || line[0] > '5' {
		return 0, false, "", false
	}
	code, err := strconv.Atoi(line[:3])
	if err != nil {
		return 0, false, "", false
	}
	if len(line) == 3 {
		return code, false, "", true
	}
	switch line[3] {
	case ' ':
		return code, false, line[4:], true
	case '-':
		return code, true, line[4:], true
	default:
		return 0, false, "", false
	}
}

// cutEnhanced takes an enhanced status code (RFC 3463) off the text of a reply.
// RFC 2034 section 4 wants it on every line, and its class equal to the reply's.
func cutEnhanced(code int, text string) (enhanced, rest string) {
	word, rest, _ := strings.Cut(text, " ")
	class, detail, found := strings.Cut(word, ".")
	subject, detail, found2 := strings.Cut(detail, ".")
	if !found || !found2 || class != strconv.Itoa(code/100) || !isSmallNumber(subject) || !isSmallNumber(detail) {
		return "", text
	}
	return word, rest
}

func isSmallNumber(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && len(s) <= 3 && n <= 999
}

// clean makes a relay's words safe to keep: valid UTF-8 on one line, without
// control and format characters, at most 512 bytes, addresses and secrets
// hidden. A secret is the message's link: a relay that dislikes a link may quote
// it, and it is a password.
func clean(s string, secrets ...string) string {
	for _, secret := range secrets {
		s = strings.ReplaceAll(s, secret, "[link]")
	}
	if isClean(s) {
		return s
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "\uFFFD"))
	s = maskAddresses(strings.Join(strings.Fields(s), " "))
	if len(s) <= maxReplyText {
		return s
	}
	cut := maxReplyText
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}

// isClean reports whether there is nothing to be cleaned in s, as in nearly every
// reply.
func isClean(s string) bool {
	last := byte(' ')
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c > '~' || c == '@' || c == ' ' && last == ' ' {
			return false
		}
		last = c
	}
	return len(s) <= maxReplyText && (s == "" || last != ' ')
}

// localPart is everything before an @ that could belong to an address, quoted
// local parts included. It takes rather too much than too little.
var localPart = regexp.MustCompile(`("[^"]*"|[^\s<>()\[\],;:"'@]+)@`)

// maskAddresses hides the local part of every mail address in s. The domain
// stays: it tells an operator which provider spoke.
func maskAddresses(s string) string {
	return localPart.ReplaceAllLiteralString(s, "***@")
}
