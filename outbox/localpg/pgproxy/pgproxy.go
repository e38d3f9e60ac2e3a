// Package pgproxy stands between an application and its PostgreSQL and lets chosen
// things go wrong: a statement that never arrives, a commit whose answer is lost,
// a network that swallows everything. It is for tests of what an application does
// then. It speaks the protocol without TLS.
package pgproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Moment is when a [Fault] acts.
type Moment int

// The moments. A statement is sent together with others up to the next Sync of
// the protocol, which is where a transaction without BEGIN commits.
const (
	Request Moment = iota // before the server learns of the statement
	Reply                 // when the server has answered, and before the client knows
)

// Fault is something that goes wrong with a statement.
type Fault struct {
	Statement string // acts on SQL that contains this, in any case; empty: on any
	At        Moment

	Do      func()                // is called first
	Hang    time.Duration         // then nothing happens for so long
	Rewrite func(values [][]byte) // at Reply: may change the values of each row; nil is NULL
	Cut     bool                  // then the connection is reset; otherwise all goes on
	Times   int                   // acts so often only; 0: always
}

// Proxy is a running proxy.
type Proxy struct {
	listener net.Listener
	server   string // host:port
	through  string
	running  sync.WaitGroup
	closing  chan struct{}

	mu     sync.Mutex
	faults []*countedFault
	links  map[*link]bool
	gate   chan struct{} // closed while everything flows
}

type countedFault struct {
	Fault
	times int
}

// Listen starts a proxy on a free port of loopback, before the server that the URL
// of a database names.
func Listen(databaseURL string) (*Proxy, error) {
	server, err := pgconn.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	through, err := url.Parse(databaseURL)
	if err != nil || through.Host == "" { // the error may hold the password
		return nil, errors.New("proxy: the URL of a database is of the form postgres://user:password@host:port/database")
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	through.Host = listener.Addr().String()
	p := &Proxy{
		listener: listener,
		server:   net.JoinHostPort(server.Host, strconv.Itoa(int(server.Port))),
		through:  through.String(),
		closing:  make(chan struct{}),
		links:    map[*link]bool{},
		gate:     make(chan struct{}),
	}
	close(p.gate)
	p.running.Go(p.accept)
	return p, nil
}

// URL is that of the database, by way of the proxy.
func (p *Proxy) URL() string { return p.through }

// Inject adds a fault, until remove is called.
func (p *Proxy) Inject(f Fault) (remove func()) {
	f.Statement = strings.ToLower(f.Statement)
	added := &countedFault{Fault: f}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, added)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i, other := range p.faults {
			if other == added {
				p.faults = append(p.faults[:i:i], p.faults[i+1:]...)
				return
			}
		}
	}
}

// find gives the first fault that fits one of the statements, and counts it.
func (p *Proxy) find(statements []string) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if f.Times > 0 && f.times >= f.Times {
			continue
		}
		for _, statement := range statements {
			if strings.Contains(strings.ToLower(statement), f.Statement) {
				f.times++
				return &f.Fault
			}
		}
	}
	return nil
}

// Partition lets nothing pass in either direction, and new connections hang, until
// it is called with false: then everything that was held back flows on.
func (p *Proxy) Partition(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
		if on {
			p.gate = make(chan struct{})
		}
	default:
		if !on {
			close(p.gate)
		}
	}
}

// CutAll resets all connections.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.cut()
	}
}

// Close ends the proxy and all its connections.
func (p *Proxy) Close() error {
	close(p.closing)
	err := p.listener.Close()
	p.CutAll()
	p.running.Wait()
	return err
}

// pass waits until things flow, and at least for d. It fails when the proxy ends
// or the link is cut.
func (p *Proxy) pass(l *link, d time.Duration) bool {
	if d > 0 {
		select {
		case <-time.After(d):
		case <-l.done:
			return false
		}
	}
	p.mu.Lock()
	gate := p.gate
	p.mu.Unlock()
	select {
	case <-gate:
		return true
	case <-l.done:
		return false
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		l := &link{proxy: p, client: client, done: make(chan struct{}), statements: map[string]string{}, ready: make(chan *Fault, 1<<12)}
		p.mu.Lock()
		p.links[l] = true
		p.mu.Unlock()
		select {
		case <-p.closing:
			l.cut()
		default:
		}
		p.running.Go(func() {
			defer func() {
				l.cut()
				p.mu.Lock()
				delete(p.links, l)
				p.mu.Unlock()
			}()
			l.run()
		})
	}
}
