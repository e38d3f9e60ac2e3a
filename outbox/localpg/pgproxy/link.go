package pgproxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"

	"github.com/jackc/pgx/v5/pgproto3"
)

// link is one client and its connection to the server.
type link struct {
	proxy          *Proxy
	client, server net.Conn
	once           sync.Once
	done           chan struct{}

	statements map[string]string // SQL by the name under which it was prepared
	ready      chan *Fault       // for each ReadyForQuery to come, the fault at the reply, or nil
}

// cut resets both connections.
func (l *link) cut() {
	l.once.Do(func() {
		close(l.done)
		for _, c := range []net.Conn{l.client, l.server} {
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
				_ = tcp.Close()
			}
		}
	})
}

// Codes that stand in place of a protocol version (PostgreSQL, 55.2.10 and 55.2.12).
const (
	sslRequest    = 80877103
	gssEncRequest = 80877104
	cancelRequest = 80877102
)

func (l *link) run() {
	if !l.proxy.pass(l, 0) {
		return
	}
	server, err := net.Dial("tcp", l.proxy.server) //nolint:noctx // loopback, and cut ends it
	if err != nil {
		return
	}
	l.proxy.mu.Lock()
	l.server = server
	l.proxy.mu.Unlock()
	select {
	case <-l.done:
		_ = server.Close()
		return
	default:
	}
	client := bufio.NewReader(l.client)
	startup, err := l.startup(client)
	if err != nil {
		return
	}
	if _, err := server.Write(startup); err != nil {
		return
	}
	if binary.BigEndian.Uint32(startup[4:]) == cancelRequest {
		_, _ = io.Copy(io.Discard, server) // until the server has seen to it
		return
	}
	l.ready <- nil // the one after authentication
	var answers sync.WaitGroup
	answers.Go(func() {
		defer l.cut()
		l.answers(bufio.NewReader(server))
	})
	l.requests(client)
	l.cut()
	answers.Wait()
}

// startup reads the first message, and declines encryption.
func (l *link) startup(client io.Reader) ([]byte, error) {
	for {
		head := make([]byte, 8)
		if _, err := io.ReadFull(client, head); err != nil {
			return nil, err
		}
		switch binary.BigEndian.Uint32(head[4:]) {
		case sslRequest, gssEncRequest:
			if _, err := l.client.Write([]byte("N")); err != nil {
				return nil, err
			}
			continue
		}
		message := make([]byte, max(8, binary.BigEndian.Uint32(head)))
		copy(message, head)
		_, err := io.ReadFull(client, message[8:])
		return message, err
	}
}

// readMessage reads one message: its type, a length, and the body.
func readMessage(r io.Reader) ([]byte, error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	message := make([]byte, 1+max(4, binary.BigEndian.Uint32(head[1:])))
	copy(message, head)
	_, err := io.ReadFull(r, message[5:])
	return message, err
}

// requests passes on what the client says, in the portions that the server
// answers with one ReadyForQuery each.
func (l *link) requests(client io.Reader) {
	var portion []byte
	var texts []string
	for {
		message, err := readMessage(client)
		if err != nil {
			return
		}
		portion = append(portion, message...)
		if text, ok := l.text(message); ok {
			texts = append(texts, text)
		}
		ends := message[0] == 'Q' || message[0] == 'S'
		if ends && !l.portionEnds(texts) {
			return
		}
		if ends || bytes.IndexByte([]byte("HXdcfp"), message[0]) >= 0 { // Flush, Terminate, COPY, password
			if !l.proxy.pass(l, 0) {
				return
			}
			if _, err := l.server.Write(portion); err != nil {
				return
			}
			portion = portion[:0]
		}
		if ends {
			texts = nil
		}
	}
}

// portionEnds lets faults act before a portion goes to the server, and notes those
// that act on its answer. It says whether to go on.
func (l *link) portionEnds(texts []string) bool {
	fault := l.proxy.find(texts)
	if fault == nil || fault.At == Reply {
		l.ready <- fault
		return true
	}
	l.ready <- nil
	return l.act(fault)
}

// text is the SQL that a message asks to carry out.
func (l *link) text(message []byte) (string, bool) {
	fields := bytes.SplitN(message[5:], []byte{0}, 3)
	switch {
	case message[0] == 'Q':
		return string(fields[0]), true
	case message[0] == 'P' && len(fields) > 1: // name, SQL
		l.statements[string(fields[0])] = string(fields[1]) // only prepared
	case message[0] == 'B' && len(fields) > 1: // portal, name
		return l.statements[string(fields[1])], true
	}
	return "", false
}

// act carries a fault out, and says whether to go on.
func (l *link) act(fault *Fault) bool {
	if fault.Do != nil {
		fault.Do()
	}
	if !l.proxy.pass(l, fault.Hang) {
		return false
	}
	return !fault.Cut
}

// answers passes on what the server says. The answer to a portion with a fault is
// held back until it is complete. What comes when no portion waits for an answer,
// a notification or the news of a shutdown, is passed on as it is.
func (l *link) answers(server io.Reader) {
	var held []byte
	var fault *Fault
	answering := false
	for {
		message, err := readMessage(server)
		if err != nil {
			return
		}
		if !answering {
			select {
			case fault = <-l.ready: // put there before the portion was sent
				answering = true
			default:
			}
		}
		if fault != nil && fault.Rewrite != nil && message[0] == 'D' {
			message = rewrite(message, fault.Rewrite)
		}
		held = append(held, message...)
		ends := message[0] == 'Z'
		if fault != nil && !ends {
			continue
		}
		if fault != nil && !l.act(fault) {
			return
		}
		if !l.proxy.pass(l, 0) {
			return
		}
		if _, err := l.client.Write(held); err != nil {
			return
		}
		held = held[:0]
		if ends {
			answering, fault = false, nil
		}
	}
}

// rewrite lets change alter the values of a row.
func rewrite(message []byte, change func([][]byte)) []byte {
	var row pgproto3.DataRow
	if row.Decode(message[5:]) != nil {
		return message
	}
	change(row.Values)
	changed, err := row.Encode(nil)
	if err != nil {
		return message
	}
	return changed
}
