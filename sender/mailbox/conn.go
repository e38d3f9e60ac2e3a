package mailbox

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// conn lets faults act at commands that the SMTP server answers by itself. It
// passes what the client says on a line at a time, so that a reply of ours keeps
// its place among those of the server, and knows what is content and no command.
// It also does the work of STARTTLS, so that it stands above the encryption and
// sees commands after it as before; the SMTP server never knows of it.
type conn struct {
	net.Conn // as accepted
	server   *Server
	stream   net.Conn // what is spoken over: the same, or TLS over it
	lines    *bufio.Reader
	line     []byte // read, and not yet passed on

	mu        sync.Mutex
	greeted   bool
	content   bool // from 354 to the next reply
	answer    bool // the next line answers a challenge of AUTH
	encrypted bool // by STARTTLS
	strange   bool // encrypted, and no EHLO since then
	forgotten sync.Once
}

func newConn(raw net.Conn, server *Server) *conn {
	return &conn{Conn: raw, server: server, stream: raw, lines: bufio.NewReader(raw)}
}

// Read passes the next line on, after the faults.
func (c *conn) Read(p []byte) (int, error) {
	for len(c.line) == 0 {
		line, err := c.lines.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull { //nolint:errorlint // ReadSlice gives it as it is
			if len(line) == 0 {
				return 0, err
			}
		}
		c.line = append([]byte(nil), line...)
		if !strings.HasSuffix(string(line), "\n") {
			break // cut off, or longer than any command may be
		}
		answered, err := c.intercept(string(line))
		if err != nil {
			return 0, err
		}
		if answered {
			c.line = nil
		}
	}
	n := copy(p, c.line)
	c.line = c.line[n:]
	return n, nil
}

// intercept looks at one line of the client. It says whether it was answered
// here. The lock is free while a fault takes its time.
func (c *conn) intercept(line string) (answered bool, err error) {
	verb, isCommand := c.command(line)
	if !isCommand {
		return false, nil
	}
	phase := Phase(verb)
	if verb == "HELO" {
		phase = EHLO
	}
	switch phase {
	case EHLO, StartTLS, Data, Rset, Quit: // at the others the SMTP server asks the session
		if fault, found := c.server.faults.find(phase); found && c.answerInstead(fault) {
			return true, nil
		}
	}
	c.mu.Lock()
	strange := c.strange && phase != EHLO && phase != Quit && verb != "NOOP"
	c.strange = c.strange && phase != EHLO
	c.mu.Unlock()
	switch {
	case strange: // RFC 3207 section 4.2: what was said before is forgotten
		_, err = io.WriteString(c.stream, "503 5.5.1 say EHLO again\r\n")
		return true, err
	case phase == StartTLS && c.offersTLS():
		return true, c.encrypt()
	case verb == "BDAT":
		// The SMTP server would take a chunk that is cut off for a whole one. What
		// follows is content, so there is no going on.
		_, _ = io.WriteString(c.stream, "502 5.5.1 chunking is not offered\r\n")
		return true, c.Conn.Close()
	}
	return false, nil
}

// command takes a line of the client apart, unless it is none: content, or the
// answer to a challenge.
func (c *conn) command(line string) (verb string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.content || c.answer {
		return "", false
	}
	verb, _, _ = strings.Cut(strings.TrimRight(line, "\r\n"), " ")
	return strings.ToUpper(verb), true
}

// encrypt answers STARTTLS. What the client sent along with the command came
// unprotected, and is thrown away (RFC 3207 section 4.2 and 5).
func (c *conn) encrypt() error {
	if _, err := io.WriteString(c.stream, "220 2.0.0 go ahead\r\n"); err != nil {
		return err
	}
	encrypted := tls.Server(c.Conn, c.server.tls)
	if err := encrypted.HandshakeContext(context.Background()); err != nil { // Close ends it
		return fmt.Errorf("STARTTLS: %w", err)
	}
	c.stream = encrypted
	c.lines.Reset(encrypted)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.encrypted, c.strange = true, true
	return nil
}

func (c *conn) offersTLS() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server.tls != nil && !c.encrypted
}

// answerInstead carries a fault out in the server's place. It says whether the
// line is done with.
func (c *conn) answerInstead(f Fault) bool {
	c.server.begin(f, c.Conn)
	if f.Reply != "" {
		_, _ = io.WriteString(c.stream, wireReply(f.Reply))
	}
	if f.Close {
		_ = c.Conn.Close()
	}
	return f.Reply != "" || f.Close || f.Hang
}

// Write passes an answer of the server on, and learns from it: the server is
// silent while content comes in, so whatever it says next ends that.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	first := !c.greeted
	c.greeted = true
	c.content = strings.HasPrefix(string(p), "354")
	c.answer = strings.HasPrefix(string(p), "334")
	c.mu.Unlock()
	if first {
		if fault, found := c.server.faults.find(Greeting); found && c.answerInstead(fault) {
			return len(p), nil
		}
	}
	if string(p) == "250-PIPELINING\r\n" && c.offersTLS() { // the first extension of every EHLO
		if _, err := io.WriteString(c.stream, "250-STARTTLS\r\n"); err != nil {
			return 0, err
		}
	}
	if string(p) == "250-CHUNKING\r\n" {
		return len(p), nil // not offered: see intercept
	}
	return c.stream.Write(p)
}

// Close closes the connection once.
func (c *conn) Close() error {
	c.forgotten.Do(func() { c.server.forget(c) })
	return c.Conn.Close()
}
