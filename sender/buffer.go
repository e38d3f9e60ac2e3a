package sender

import "sync"

// maxKept is the size of a buffer that is kept for the next message.
const maxKept = 1 << 20

// buffer is the memory that one message is composed in. The bytes of an envelope
// lie in it, so it is given back when the dialogue is over, and not before.
type buffer struct {
	text  []byte // what is being rendered
	parts quoter // the parts, encoded
	mail  []byte // the message
}

// buffers lends them out.
type buffers struct{ pool sync.Pool }

func (b *buffers) take() *buffer {
	if kept, ok := b.pool.Get().(*buffer); ok {
		return kept
	}
	return &buffer{}
}

// giveBack ends the use of used, and of everything that lies in it.
func (b *buffers) giveBack(used *buffer) {
	if max(cap(used.text), cap(used.parts.out), cap(used.mail)) > maxKept {
		return // one big message must not hold its memory for ever
	}
	b.pool.Put(used)
}
