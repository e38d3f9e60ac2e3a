//go:build !unix

package sender

// pending cannot look without waiting here. A dead connection is then found by
// the next command, or by the silence after the dot.
func (w *wire) pending() (bool, error) { return false, nil }

// keepsWords says that what the relay said before it reset the connection can
// still be read. Windows throws it away, so nothing may be sent that a relay
// could leave unread while it answers.
const keepsWords = false
