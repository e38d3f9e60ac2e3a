package sender_test

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// leanRelay says yes to everything, and costs next to nothing: it answers all the
// commands of one packet in one packet.
type leanRelay struct {
	url      string
	distance time.Duration // from a packet to the answer to it
	thinks   time.Duration // before each reply
	greeting []byte        // to EHLO

	mails  atomic.Int64
	behind atomic.Int64 // mails whose envelope came in one packet with the dot before it
	open   atomic.Int64
	most   atomic.Int64 // connections open at a time
}

func startLeanRelay(t testing.TB, r *leanRelay, extensions ...string) *leanRelay {
	t.Helper()
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.url = "smtp://" + listener.Addr().String() + "?tls=none"
	for _, e := range append([]string{"lean"}, extensions...) {
		r.greeting = append(r.greeting, "250-"+e+"\r\n"...)
	}
	r.greeting = append(r.greeting, "250 8BITMIME\r\n"...)
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() { r.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		sessions.Wait()
	})
	return r
}

func (r *leanRelay) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	now := r.open.Add(1)
	defer r.open.Add(-1)
	for old := r.most.Load(); now > old && !r.most.CompareAndSwap(old, now); old = r.most.Load() {
	}
	s := leanSession{relay: r, out: []byte("220 lean\r\n"), replies: 1}
	for in := make([]byte, 0, 64<<10); ; {
		if s.replies > 0 {
			if wait := r.distance + time.Duration(s.replies)*r.thinks; wait > 0 {
				<-time.After(wait)
			}
			if _, err := c.Write(s.out); err != nil {
				return
			}
			s.out, s.replies = s.out[:0], 0
		}
		n, err := c.Read(in[len(in):cap(in)])
		if err != nil {
			return
		}
		in = in[:len(in)+n]
		rest := s.take(in)
		in = in[:copy(in[:cap(in)], rest)]
	}
}

// leanSession is where a dialogue with a leanRelay stands.
type leanSession struct {
	relay   *leanRelay
	inData  bool
	out     []byte
	replies int
}

// take handles all complete lines, and gives what is left.
func (s *leanSession) take(in []byte) []byte {
	for {
		if s.inData {
			end := bytes.Index(in, []byte("\r\n.\r\n"))
			if end < 0 {
				return in[max(0, len(in)-4):]
			}
			in = in[end+5:]
			s.inData = false
			s.relay.mails.Add(1)
			if len(in) > 0 {
				s.relay.behind.Add(1)
			}
			s.say("250 2.0.0 Ok: queued as 4bXyZ1\r\n")
			continue
		}
		line, rest, found := bytes.Cut(in, []byte("\n"))
		if !found {
			return in
		}
		in = rest
		switch line[0] {
		case 'E':
			s.say(string(s.relay.greeting))
		case 'D':
			s.inData = true
			s.say("354 End data with <CR><LF>.<CR><LF>\r\n")
		default:
			s.say("250 2.1.0 Ok\r\n")
		}
	}
}

func (s *leanSession) say(reply string) {
	s.out = append(s.out, reply...)
	s.replies++
}
