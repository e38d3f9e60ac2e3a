package bench

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"sync"
	"time"
)

// SinkConfig says how the sink behaves. The zero value is a relay that answers
// at once and forgets.
type SinkConfig struct {
	ReplyDelay time.Duration // before every single reply
	RTT        time.Duration // what arrives is looked at so much later
	Journal    string        // file that mails are flushed to before they are accepted
	Lose       int           // do not count the mail with this number, to see that it is missed
	Repeat     int           // count it twice, to see that it is noticed
}

// Sink is a relay that accepts every mail and counts it.
type Sink struct {
	config   SinkConfig
	listener net.Listener
	journal  *journal
	seeds    [2]maphash.Seed
	sessions sync.WaitGroup

	mu      sync.Mutex
	arrived int
	count   Count
	seen    map[[2]uint64]struct{} // Message-IDs, as hashes: the collector of garbage has nothing to look at
	times   []Arrival
	open    map[net.Conn]struct{}
	closed  bool
}

// Count is what the sink has got so far.
type Count struct {
	Mails       int      `json:"mails"`
	Unique      int      `json:"unique"`     // Message-IDs
	Duplicates  int      `json:"duplicates"` // mails whose Message-ID had come before
	Nameless    int      `json:"nameless"`   // mails without a Message-ID
	Examples    []string `json:"examples"`   // of Message-IDs that came twice
	First       int64    `json:"first"`      // when the first mail was accepted, in nanoseconds
	Last        int64    `json:"last"`       // and the last one so far
	Connections int      `json:"connections"`
}

// Arrival is when a mail was accepted, by the number of its recipient.
type Arrival struct {
	Number int   `json:"n"`
	At     int64 `json:"at"`
}

const examples = 3

// newSink listens on a free port of this machine.
func newSink(config SinkConfig) (*Sink, error) {
	s := &Sink{
		config: config,
		seeds:  [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		seen:   map[[2]uint64]struct{}{},
		open:   map[net.Conn]struct{}{},
	}
	var err error
	if config.Journal != "" {
		if s.journal, err = newJournal(config.Journal); err != nil {
			return nil, err
		}
	}
	if s.listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	return s, nil
}

// serve takes connections until close.
func (s *Sink) serve() error {
	for {
		conn, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			s.sessions.Wait()
			return nil
		}
		if err != nil {
			return fmt.Errorf("sink: %w", err)
		}
		if s.welcome(conn) {
			s.sessions.Go(func() {
				defer s.forget(conn)
				newSession(s, conn).serve()
			})
		}
	}
}

func (s *Sink) welcome(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close() // nobody is served any more
		return false
	}
	s.count.Connections++
	s.open[conn] = struct{}{}
	return true
}

func (s *Sink) forget(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, conn)
	_ = conn.Close() // all has been said
}

// close hangs up on everybody.
func (s *Sink) close() error {
	s.mu.Lock()
	s.closed = true
	for conn := range s.open {
		_ = conn.Close() // they are not asked
	}
	s.mu.Unlock()
	err := s.listener.Close()
	s.sessions.Wait()
	if s.journal != nil {
		err = errors.Join(err, s.journal.close())
	}
	return err
}

// keep makes a mail safe, if that is asked for.
func (s *Sink) keep(mail []byte) error {
	if s.journal == nil {
		return nil
	}
	return s.journal.write(mail)
}

// accept counts a mail, the moment before the client is told.
func (s *Sink) accept(number int, id []byte) {
	key := [2]uint64{maphash.Bytes(s.seeds[0], id), maphash.Bytes(s.seeds[1], id)}
	now := time.Now().UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrived++
	times := 1
	switch s.arrived {
	case s.config.Lose:
		times = 0
	case s.config.Repeat:
		times = 2
	}
	for range times {
		s.add(key, id)
	}
	if number >= 0 {
		s.times = append(s.times, Arrival{number, now})
	}
	if s.count.First == 0 {
		s.count.First = now
	}
	s.count.Last = now
}

func (s *Sink) add(key [2]uint64, id []byte) {
	s.count.Mails++
	if len(id) == 0 {
		s.count.Nameless++
		return
	}
	if _, again := s.seen[key]; again {
		s.count.Duplicates++
		if len(s.count.Examples) < examples {
			s.count.Examples = append(s.count.Examples, string(id))
		}
		return
	}
	s.seen[key] = struct{}{}
	s.count.Unique++
}

// soFar gives the account.
func (s *Sink) soFar() Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// arrivals gives the moments at which mails were accepted, in this order.
func (s *Sink) arrivals() []Arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Arrival{}, s.times...)
}
