package bench

import (
	"bytes"
	"io"
	"net"
	"time"
)

// dotFinder finds the end of a mail, the line with nothing but a dot (RFC 5321
// section 4.5.2), in whatever pieces it comes. A line of content that begins with
// a dot has a second one there.
type dotFinder struct {
	matched int // bytes of endOfMail that were the last to come
}

const endOfMail = "\r\n.\r\n"

// newDotFinder begins where a line does, as if the one before had just ended.
func newDotFinder() dotFinder { return dotFinder{matched: 2} }

// find gives the length of what belongs to the mail, with the dot and its line,
// and says whether the mail ends there.
func (d *dotFinder) find(p []byte) (n int, found bool) {
	for n < len(p) && d.matched > 0 {
		switch p[n] {
		case endOfMail[d.matched]:
			d.matched++
		case '\r':
			d.matched = 1
		default:
			d.matched = 0
		}
		n++
		if d.matched == len(endOfMail) {
			return n, true
		}
	}
	if at := bytes.Index(p[n:], []byte(endOfMail)); at >= 0 {
		return n + at + len(endOfMail), true
	}
	for length := min(len(endOfMail)-1, len(p)-n); length > 0; length-- {
		if string(p[len(p)-length:]) == endOfMail[:length] {
			d.matched = length
			break
		}
	}
	return len(p), false
}

// late reads from a connection as if it were far away: everything arrives later,
// and as much can be under way as there is.
type late struct {
	pieces <-chan piece
	piece  piece
}

type piece struct {
	bytes []byte
	due   time.Time
	err   error
}

// newLate reads ahead until the connection ends, or done is closed.
func newLate(conn net.Conn, later time.Duration, done <-chan struct{}) io.Reader {
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			buffer := make([]byte, inputSize/4)
			n, err := conn.Read(buffer)
			select {
			case pieces <- piece{buffer[:n], time.Now().Add(later), err}:
			case <-done:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return &late{pieces: pieces}
}

// Read waits until something has arrived.
func (l *late) Read(p []byte) (int, error) {
	for len(l.piece.bytes) == 0 {
		if l.piece.err != nil {
			return 0, l.piece.err
		}
		next, more := <-l.pieces
		if !more {
			return 0, io.EOF
		}
		wait(time.Until(next.due))
		l.piece = next
	}
	n := copy(p, l.piece.bytes)
	l.piece.bytes = l.piece.bytes[n:]
	return n, nil
}
