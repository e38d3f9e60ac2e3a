//go:build unix

package sender

import (
	"errors"
	"io"
	"syscall"
)

// keepsWords says that what the relay said before it reset the connection can
// still be read: so it does not matter that a relay which answers the dot and
// closes leaves unread what was sent behind it.
const keepsWords = true

// pending reports whether the relay has sent something that nobody has read:
// bytes, or the end of the connection, which is an error. It does not wait.
func (w *wire) pending() (bool, error) {
	socket, ok := w.Conn.(syscall.Conn)
	if !ok {
		return false, nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false, err
	}
	var n int
	var peekErr error
	err = raw.Control(func(fd uintptr) { // and not Read, for which an old deadline would answer
		var b [1]byte
		n, _, peekErr = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
	})
	switch {
	case err != nil:
		return false, err
	case errors.Is(peekErr, syscall.EAGAIN), errors.Is(peekErr, syscall.EINTR):
		return false, nil
	case peekErr != nil:
		return false, peekErr
	case n == 0:
		return false, io.EOF
	default:
		return true, nil
	}
}
