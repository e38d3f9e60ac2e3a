package sender_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
)

// peer is a relay of which a test writes every word, for what the mailbox is too
// honest to do: garbage, endless replies, replies out of turn.
type peer struct {
	listener net.Listener
	sessions sync.WaitGroup

	mu   sync.Mutex
	logs []string // what each connection sent, in the order of the connections
	acts []string // the same in short: the verbs of its commands, and a dot for the end of data
}

// startPeer runs script once for each connection, numbered from 0. When it
// returns the connection is read to its end, and closed.
func startPeer(t testing.TB, script func(n int, s *session)) *peer {
	t.Helper()
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{listener: listener}
	p.sessions.Go(func() {
		for n := 0; ; n++ {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.logs, p.acts = append(p.logs, ""), append(p.acts, "")
			p.mu.Unlock()
			p.sessions.Go(func() { p.serve(c, n, script) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.sessions.Wait()
	})
	return p
}

func (p *peer) serve(c net.Conn, n int, script func(int, *session)) {
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	s := &session{conn: c, r: bufio.NewReader(c)}
	script(n, s)
	if !s.closed {
		for !s.ended() {
			s.hear()
		}
	}
	p.mu.Lock()
	p.logs[n], p.acts[n] = s.log.String(), strings.Join(s.acts, " ")
	p.mu.Unlock()
}

// stop ends the peer, and gives what each connection has sent.
func (p *peer) stop() []string {
	_ = p.listener.Close()
	p.sessions.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logs
}

// wantActs ends the peer, and wants what each connection has done.
func (p *peer) wantActs(t *testing.T, want ...string) {
	t.Helper()
	p.stop()
	if !slices.Equal(p.acts, want) {
		t.Errorf("the relay got\n%q\nwant\n%q", p.acts, want)
	}
}

// session is one connection of a peer.
type session struct {
	conn   net.Conn
	r      *bufio.Reader
	log    strings.Builder
	acts   []string
	inData bool
	closed bool
}

func (s *session) say(lines ...string) {
	s.inData = s.inData || strings.HasPrefix(lines[0], "354")
	_, _ = io.WriteString(s.conn, strings.Join(lines, "\r\n")+"\r\n")
}

// hear reads one line.
func (s *session) hear() string {
	line, _ := s.r.ReadString('\n')
	s.log.WriteString(line)
	line = strings.TrimRight(line, "\r\n")
	if s.inData = s.inData && line != "."; !s.inData && line != "" {
		verb, _, _ := strings.Cut(line, " ")
		s.acts = append(s.acts, verb)
	}
	return line
}

// greet goes through greeting and EHLO.
func (s *session) greet(extensions ...string) {
	s.say("220 peer")
	s.hear()
	s.say("250-peer")
	for _, e := range extensions {
		s.say("250-" + e)
	}
	s.say("250 ENHANCEDSTATUSCODES")
}

// envelope goes through MAIL, RCPT and DATA.
func (s *session) envelope() {
	for _, reply := range []string{"250 sender", "250 recipient", "354 go ahead"} {
		s.hear()
		s.say(reply)
	}
}

// body reads to the end of the body, but not the dot.
func (s *session) body() {
	for !strings.HasSuffix(s.log.String(), "--\r\n") {
		if s.hear() == "" && s.ended() {
			return
		}
	}
}

// dot reads to the dot, and gives what came.
func (s *session) dot() {
	for s.hear() != "." && !s.ended() {
	}
}

func (s *session) ended() bool {
	_, err := s.r.Peek(1)
	return err != nil
}

func (s *session) hangUp() {
	s.closed = true
	_ = s.conn.Close()
}

// newEmail gives a sender for the relays at urls.
func newEmail(t testing.TB, urls string, change ...func(*sender.EmailConfig)) *sender.Email {
	t.Helper()
	relays, err := sender.ParseRelays(urls)
	if err != nil {
		t.Fatal(err)
	}
	return newComposer(t, append([]func(*sender.EmailConfig){func(c *sender.EmailConfig) {
		c.Relays = relays
		c.LocalName = "client.example.com"
		c.Logger = discard
	}}, change...)...)
}

func (p *peer) url() string { return fmt.Sprintf("smtp://%s?tls=none", p.listener.Addr()) }

// handovers counts the calls of handover.
type handovers struct {
	mu     sync.Mutex
	relays []string
	err    error
	do     func()
}

func (h *handovers) record(_ context.Context, relay string) error {
	h.mu.Lock()
	h.relays = append(h.relays, relay)
	h.mu.Unlock()
	if h.do != nil {
		h.do()
	}
	return h.err
}

func (h *handovers) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.relays)
}

func wantOutcome(t *testing.T, err error, want outbox.Outcome) {
	t.Helper()
	if got := outbox.OutcomeOf(err); got != want {
		t.Errorf("the outcome is %s, want %s; the error is %v", got, want, err)
	}
	_, attempted := errors.AsType[*outbox.SendError](err)
	if _, ok := errors.AsType[*outbox.Unavailable](err); err != nil && ok == attempted {
		t.Errorf("%v is neither a SendError nor an Unavailable, or both", err)
	}
}
