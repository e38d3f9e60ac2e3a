package sender

import (
	"net"
	"time"
)

// wire is the TCP connection below TLS. It bounds what the relay may say before
// we speak again: the library that reads greeting, EHLO and AUTH does not. And
// closing it is the hard close: no QUIT, no TLS goodbye.
type wire struct {
	net.Conn
	heard    int           // bytes since our last write
	patience time.Duration // the next Read waits so long; 0 is until the deadline there is
}

// Read fails once the relay has said more than any honest one does.
func (w *wire) Read(p []byte) (int, error) {
	if w.heard > maxWireReply {
		return 0, errEndless
	}
	if w.patience > 0 { // set only now, because most replies are here already
		if err := w.SetDeadline(time.Now().Add(w.patience)); err != nil {
			return 0, err
		}
		w.patience = 0
	}
	n, err := w.Conn.Read(p)
	w.heard += n
	return n, err
}

// Write starts a new count.
func (w *wire) Write(p []byte) (int, error) {
	w.heard = 0
	return w.Conn.Write(p)
}
