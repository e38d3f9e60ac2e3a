package mailbox

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Config says what kind of server to run. Its zero value is a server on a free
// port of loopback, without encryption or login, that accepts everything.
type Config struct {
	Addr     string // default "127.0.0.1:0"
	Capacity int    // mails kept, the oldest go first; default 1,000, negative for none
	MaxBytes int64  // kept in total; default 64 MiB

	TLS         *tls.Config       // offers STARTTLS
	ImplicitTLS bool              // speaks TLS from the first byte instead
	Users       map[string]string // passwords by name: requires AUTH PLAIN, LOGIN or SCRAM-SHA-256

	// Keep, if it is set, gets every mail before it is kept and before the client
	// is told so. It is where a caller makes mail durable; an error refuses it for now.
	Keep func(from string, to []string, raw []byte) error

	Faults     []Fault      // what goes wrong; the first that fits acts
	DemoFaults bool         // adds those that are chosen by recipient: see [DemoFaults]
	Logger     *slog.Logger // default: discard
}

// maxMessageBytes is the size limit that the server announces (RFC 1870).
const maxMessageBytes = 25 << 20

// Server is a running mailbox.
type Server struct {
	store    *store
	faults   *faults
	keep     func(from string, to []string, raw []byte) error
	users    map[string]string
	tls      *tls.Config // of STARTTLS
	smtp     *smtp.Server
	listener net.Listener
	closing  chan struct{}
	closed   sync.WaitGroup
	close    func() error

	mu          sync.Mutex
	down        bool
	connections int
	open        map[*conn]bool
}

// Listen starts a server. It runs until Close.
func Listen(config Config) (*Server, error) {
	config.Logger = cmp.Or(config.Logger, slog.New(slog.DiscardHandler))
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", cmp.Or(config.Addr, "127.0.0.1:0"))
	if err != nil {
		return nil, fmt.Errorf("mailbox: %w", err)
	}
	all := config.Faults
	if config.DemoFaults {
		all = append(all[:len(all):len(all)], DemoFaults()...)
	}
	s := &Server{
		store:    newStore(cmp.Or(config.Capacity, 1000), cmp.Or(config.MaxBytes, 64<<20)),
		faults:   newFaults(all),
		users:    config.Users,
		keep:     config.Keep,
		listener: listener,
		closing:  make(chan struct{}),
		open:     map[*conn]bool{},
	}
	s.close = sync.OnceValue(s.end)
	s.smtp = smtp.NewServer(smtp.BackendFunc(s.newSession))
	s.smtp.Domain = "mailbox"
	s.smtp.MaxMessageBytes = maxMessageBytes
	s.smtp.AllowInsecureAuth = true
	s.smtp.ErrorLog = slog.NewLogLogger(config.Logger.Handler(), slog.LevelDebug)
	if !config.ImplicitTLS {
		s.tls = config.TLS
	} else {
		listener = tls.NewListener(listener, config.TLS)
	}
	s.closed.Go(func() {
		if err := s.smtp.Serve(&wrapper{listener, s}); err != nil && !errors.Is(err, smtp.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			config.Logger.Error("mailbox stopped", "error", err)
		}
	})
	return s, nil
}

// Addr is host:port of the server.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close ends the server and cuts all connections. The mails stay readable. It
// may be called again, and gives the same error.
func (s *Server) Close() error { return s.close() }

func (s *Server) end() error {
	close(s.closing)
	err := s.smtp.Close()
	_ = s.listener.Close() // which the SMTP server does not know of before it has begun to serve
	s.mu.Lock()
	for c := range s.open {
		_ = c.Conn.Close()
	}
	s.mu.Unlock()
	s.closed.Wait()
	return err
}

// Inject adds a fault, which goes before those that are there. It acts until
// remove is called.
func (s *Server) Inject(fault Fault) (remove func()) { return s.faults.add(fault) }

// SetDown cuts all connections, and those that come, until it is called with false.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	if down {
		for c := range s.open {
			_ = c.Conn.Close()
		}
	}
}

// Connections counts the connections accepted so far.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections
}

// Open counts the connections that are open on our side: a client that has
// closed its own is noticed at the next read.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// Mails gives the mails kept, oldest first: all, or those to an address.
func (s *Server) Mails(to string) []Mail { return s.store.list(to) }

// Wait waits until n mails were kept since the start or the last Delete, and
// gives all that are there.
func (s *Server) Wait(ctx context.Context, n int) ([]Mail, error) { return s.store.wait(ctx, n) }

// Delete forgets all mails.
func (s *Server) Delete() { s.store.clear() }

// TB is the part of testing.TB that [Start] needs: a daemon that imports this
// package does not get package testing with it.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Start is [Listen] for tests: the server ends with the test.
func Start(tb TB, config Config) *Server {
	tb.Helper()
	s, err := Listen(config)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// wrapper puts our connections between the listener and the SMTP server.
type wrapper struct {
	net.Listener
	server *Server
}

func (w *wrapper) Accept() (net.Conn, error) {
	raw, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := newConn(raw, w.server)
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	if w.server.down {
		_ = raw.Close()
	}
	w.server.connections++
	w.server.open[c] = true
	return c, nil
}

// forget is called when a connection is closed.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// pause waits, unless the server ends first.
func (s *Server) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.closing:
	}
}
