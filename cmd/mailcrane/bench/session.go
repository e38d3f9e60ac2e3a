package bench

import (
	"bytes"
	"io"
	"net"
	"time"
)

// session is one connection to the sink. It reads as much as there is, answers
// all commands of it in one write, and allocates nothing for a mail.
type session struct {
	sink *Sink
	conn net.Conn
	in   io.Reader
	done chan struct{} // closed when the session is over

	buffer     []byte
	begin, end int    // of what was read, and not looked at yet
	out        []byte // replies that were not sent yet
	failed     bool   // the connection is of no use any more

	content bool // between DATA and the dot
	mail    []byte
	dot     dotFinder

	from, to bool
	number   int // of the recipient, -1 if it has none
}

const (
	inputSize  = 64 << 10
	headerSize = 4 << 10 // as much of a mail as is kept to look for its Message-ID
	mailSize   = 16 << 20
)

func newSession(s *Sink, conn net.Conn) *session {
	c := &session{
		sink: s, conn: conn, in: conn, done: make(chan struct{}),
		buffer: make([]byte, inputSize), out: make([]byte, 0, 512), mail: make([]byte, 0, headerSize),
	}
	if s.config.RTT > 0 {
		c.in = newLate(conn, s.config.RTT, c.done)
	}
	return c
}

func (c *session) serve() {
	defer close(c.done)
	wait(c.sink.config.RTT) // stands for the handshake of TCP
	c.reply("220 bench ESMTP\r\n")
	for !c.failed {
		if c.step() {
			continue
		}
		c.flush()
		if c.failed || !c.read() {
			return
		}
	}
}

// read gets more to look at, behind what is left of the last time.
func (c *session) read() bool {
	if c.begin > 0 {
		c.end = copy(c.buffer, c.buffer[c.begin:c.end])
		c.begin = 0
	}
	if c.end == len(c.buffer) {
		c.reply("500 line too long\r\n")
		c.flush()
		return false
	}
	n, err := c.in.Read(c.buffer[c.end:])
	c.end += n
	return n > 0 || err == nil
}

// step handles a command, or what there is of a mail. It says whether there was
// enough for that.
func (c *session) step() bool {
	if c.begin == c.end {
		return false
	}
	rest := c.buffer[c.begin:c.end]
	if c.content {
		n, found := c.dot.find(rest)
		c.keep(rest[:n])
		c.begin += n
		if found {
			c.finish()
		}
		return true
	}
	n := bytes.IndexByte(rest, '\n')
	if n < 0 {
		return false
	}
	c.begin += n + 1
	c.command(rest[:n])
	return true
}

func (c *session) command(line []byte) {
	var verb [4]byte
	for i := range min(4, len(line)) {
		verb[i] = line[i] &^ 0x20 // a capital, if it is a letter
	}
	switch string(verb[:]) {
	case "EHLO":
		c.reply("250-bench\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 16777216\r\n")
	case "MAIL":
		c.from, c.to = true, false
		c.reply("250 OK\r\n")
	case "RCPT":
		if !c.from {
			c.reply("503 MAIL first\r\n")
			return
		}
		c.to, c.number = true, numberIn(line)
		c.reply("250 OK\r\n")
	case "DATA":
		if !c.to {
			c.reply("503 RCPT first\r\n")
			return
		}
		c.content, c.mail, c.dot = true, c.mail[:0], newDotFinder()
		c.reply("354 go ahead\r\n")
	case "RSET":
		c.from, c.to = false, false
		c.reply("250 OK\r\n")
	case "HELO", "NOOP":
		c.reply("250 OK\r\n")
	case "QUIT":
		c.reply("221 bye\r\n")
		c.flush()
		c.failed = true
	default:
		c.reply("502 not known\r\n")
	}
}

// keep remembers of a mail what is asked about later.
func (c *session) keep(part []byte) {
	room := headerSize
	if c.sink.journal != nil {
		room = mailSize
	}
	c.mail = append(c.mail, part[:min(len(part), room-len(c.mail))]...)
}

// finish takes responsibility for a mail.
func (c *session) finish() {
	c.content, c.from, c.to = false, false, false
	c.pause()
	if c.sink.journal != nil {
		c.flush() // nobody waits for a disk that is not his
	}
	if err := c.sink.keep(c.mail); err != nil {
		c.out = append(c.out, "451 not on disk\r\n"...)
		return
	}
	c.sink.accept(c.number, messageID(c.mail))
	c.out = append(c.out, "250 OK\r\n"...)
	if c.sink.config.ReplyDelay > 0 {
		c.flush()
	}
}

func (c *session) reply(text string) {
	c.pause()
	c.out = append(c.out, text...)
	if c.sink.config.ReplyDelay > 0 {
		c.flush()
	}
}

func (c *session) pause() { wait(c.sink.config.ReplyDelay) }

func (c *session) flush() {
	if len(c.out) == 0 {
		return
	}
	_, err := c.conn.Write(c.out)
	c.failed = c.failed || err != nil
	c.out = c.out[:0]
}

func wait(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
}

// numberIn reads the number of the recipient out of RCPT TO:<u123@…>.
func numberIn(line []byte) int {
	_, address, found := bytes.Cut(line, []byte("<u"))
	if !found {
		return -1
	}
	n, digits := 0, 0
	for _, b := range address {
		if b < '0' || b > '9' || digits == 12 {
			break
		}
		n = 10*n + int(b-'0')
		digits++
	}
	if digits == 0 {
		return -1
	}
	return n
}

// messageID is what stands behind "Message-ID:" in the header, nil if that is
// not there.
func messageID(mail []byte) []byte {
	const name = "message-id:"
	for len(mail) > 0 {
		line := mail
		if n := bytes.IndexByte(mail, '\n'); n >= 0 {
			line, mail = mail[:n], mail[n+1:]
		} else {
			mail = nil
		}
		line = bytes.TrimRight(line, "\r")
		if len(line) == 0 {
			return nil // the header is over
		}
		if len(line) > len(name) && line[len(name)-1] == ':' && bytes.EqualFold(line[:len(name)], []byte(name)) {
			return bytes.TrimSpace(line[len(name):])
		}
	}
	return nil
}
