package sender

import (
	"encoding/binary"
	"math/bits"
	"strings"
)

// maxQuoted is the longest line of quoted-printable text without the "=" of a
// soft line break (RFC 2045 section 6.7, rule 5).
const maxQuoted = 75

// quoter encodes one body in quoted-printable, byte for byte as
// [mime/quotedprintable.Writer] does, but onto a slice and with runs of bytes that
// need no encoding copied at once. Its lines are ASCII, end with CRLF, and are
// never longer than 76 characters.
type quoter struct {
	out  []byte
	line int  // where the current line begins in out
	cr   bool // a CR has ended the line, so that a LF adds nothing
	dots bool // some line begins with a dot
}

// appendQuoted appends text to dst, whose last line must be complete. It reports
// whether a line of it begins with a dot.
func appendQuoted(dst []byte, text []byte) (out []byte, dots bool) {
	var q quoter
	q.begin(dst)
	q.write(text)
	q.closeLine()
	return q.out, q.dots
}

// begin begins another body, after what is there already.
func (q *quoter) begin(out []byte) { *q = quoter{out: out, line: len(out)} }

// write encodes text. After the last of it comes closeLine.
func (q *quoter) write(text []byte) {
	for len(text) > 0 {
		if n := literal(text); n > 0 {
			q.run(text[:n])
			text = text[n:]
			continue
		}
		switch b := text[0]; b {
		case '\t':
			q.run(text[:1])
		case '\r', '\n':
			q.newline(b)
		default:
			q.encode(b)
		}
		text = text[1:]
	}
}

// run copies bytes that stand for themselves.
func (q *quoter) run(p []byte) {
	q.cr = false
	for len(p) > 0 {
		column := len(q.out) - q.line
		if column == maxQuoted {
			q.softBreak()
			column = 0
		}
		if column == 0 && p[0] == '.' {
			q.dots = true
		}
		n := min(len(p), maxQuoted-column)
		q.out = append(q.out, p[:n]...)
		p = p[n:]
	}
}

// encode leaves q.cr alone, as the library does: what it makes of CR, an encoded
// character and LF is one line end, and copies must not differ.
func (q *quoter) encode(b byte) {
	const hex = "0123456789ABCDEF"
	if len(q.out)-q.line > maxQuoted-3 {
		q.softBreak()
	}
	q.out = append(q.out, '=', hex[b>>4], hex[b&0x0f])
}

func (q *quoter) newline(b byte) {
	if b == '\n' && q.cr {
		q.cr = false
		return
	}
	q.cr = b == '\r'
	q.closeLine()
	q.out = append(q.out, '\r', '\n')
	q.line = len(q.out)
}

// closeLine encodes the blank at the end of a line, which would be lost under way
// (RFC 2045 section 6.7, rule 3).
func (q *quoter) closeLine() {
	last := len(q.out) - 1
	if last < q.line || q.out[last] != ' ' && q.out[last] != '\t' {
		return
	}
	b := q.out[last]
	q.out = q.out[:last]
	q.encode(b)
}

func (q *quoter) softBreak() {
	q.out = append(q.out, '=', '\r', '\n')
	q.line = len(q.out)
}

// literal counts the bytes at the beginning of p that are printable ASCII or a
// space, and no "=". It looks at eight of them at a time, in the manner of
// "Determine if a word has a byte less than n" of the Bit Twiddling Hacks: above
// the first byte found it may find too many, below it none.
func literal(p []byte) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; len(p)-n >= 8; n += 8 {
		word := binary.LittleEndian.Uint64(p[n:])
		equals, del := word^'='*ones, word^0x7f*ones
		found := (word | (word-' '*ones)&^word | (equals-ones)&^equals | (del-ones)&^del) & high
		if found != 0 {
			return n + bits.TrailingZeros64(found)/8
		}
	}
	for n < len(p) && ' ' <= p[n] && p[n] <= '~' && p[n] != '=' {
		n++
	}
	return n
}

// fixed is a text that is the same in each message. Its complete lines are encoded
// once and for all: what comes before them does not change where they break.
type fixed struct {
	head    []byte // up to the first line end
	lines   []byte
	encoded []byte // lines, as they go out
	dots    bool   // a line of encoded begins with a dot
	tail    []byte // after the last line end
}

func fix(text string) fixed {
	first, last := strings.IndexByte(text, '\n')+1, strings.LastIndexByte(text, '\n')+1
	f := fixed{head: []byte(text[:first]), lines: []byte(text[first:last]), tail: []byte(text[last:])}
	f.encoded, f.dots = appendQuoted(nil, f.lines)
	return f
}

// writeFixed is write for a text that was fixed.
func (q *quoter) writeFixed(f *fixed) {
	q.write(f.head)
	if len(q.out) > q.line { // after a CR and an encoded character, a LF is no line end
		q.write(f.lines)
	} else if len(f.encoded) > 0 {
		q.out = append(q.out, f.encoded...)
		q.line = len(q.out)
		q.dots = q.dots || f.dots
	}
	q.write(f.tail)
}
