package mailbox

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// conn lets faults act at commands that the SMTP server answers by itself. It
// passes what the client says on a line at a time, so that a reply of ours keeps
// its place among those of the server, and knows what is content and no command.
type conn struct {
	net.Conn
	server *Server
	lines  *bufio.Reader
	line   []byte // read, and not yet passed on

	mu        sync.Mutex
	greeted   bool
	content   bool // until a line with a dot
	answer    bool // the next line answers a challenge of AUTH
	raw       int  // bytes of a BDAT chunk still to come
	encrypted bool // STARTTLS: nothing can be seen any more
	forgotten sync.Once
}

func newConn(raw net.Conn, server *Server) *conn {
	return &conn{Conn: raw, server: server, lines: bufio.NewReader(raw)}
}

// Read passes the next line on, after the faults.
func (c *conn) Read(p []byte) (int, error) {
	for len(c.line) == 0 {
		if c.isEncrypted() {
			return c.lines.Read(p)
		}
		if n := c.takeRaw(len(p)); n > 0 {
			read, err := c.lines.Read(p[:n])
			c.addRaw(n - read)
			return read, err
		}
		line, err := c.lines.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull { //nolint:errorlint // ReadSlice gives it as it is
			if len(line) == 0 {
				return 0, err
			}
		}
		c.line = append([]byte(nil), line...)
		if strings.HasSuffix(string(line), "\n") && c.intercept(string(line)) {
			c.line = nil
		}
	}
	n := copy(p, c.line)
	c.line = c.line[n:]
	return n, nil
}

// intercept looks at one line of the client. It says whether a fault has
// answered it.
func (c *conn) intercept(line string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.content:
		c.content = line != ".\r\n"
		return false
	case c.answer:
		c.answer = false
		return false
	}
	verb, argument, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
	verb = strings.ToUpper(verb)
	if verb == "BDAT" {
		size, _, _ := strings.Cut(argument, " ")
		c.raw, _ = strconv.Atoi(size) // the server refuses what is no number
		return false
	}
	phase := Phase(verb)
	if phase != StartTLS && phase != Data && phase != Rset && phase != Quit {
		return false
	}
	if fault, found := c.server.faults.find(phase); found {
		return c.answerInstead(fault)
	}
	c.encrypted = phase == StartTLS && c.server.smtp.TLSConfig != nil
	return false
}

// answerInstead carries a fault out in the server's place. It says whether the
// line is done with.
func (c *conn) answerInstead(f Fault) bool {
	c.server.begin(f, c.Conn)
	if f.Reply != "" {
		_, _ = io.WriteString(c.Conn, wireReply(f.Reply))
	}
	if f.Close {
		_ = c.Conn.Close()
	}
	return f.Reply != "" || f.Close || f.Hang
}

// Write passes an answer of the server on, and learns from it.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	first := !c.greeted
	c.greeted = true
	if !c.encrypted {
		c.content = c.content || strings.HasPrefix(string(p), "354")
		c.answer = strings.HasPrefix(string(p), "334")
	}
	c.mu.Unlock()
	if first {
		if fault, found := c.server.faults.find(Greeting); found && c.answerInstead(fault) {
			return len(p), nil
		}
	}
	return c.Conn.Write(p)
}

// Close closes the connection once.
func (c *conn) Close() error {
	c.forgotten.Do(func() { c.server.forget(c) })
	return c.Conn.Close()
}

func (c *conn) isEncrypted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.encrypted
}

func (c *conn) takeRaw(most int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(c.raw, most)
	c.raw -= n
	return n
}

func (c *conn) addRaw(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw += n
}
