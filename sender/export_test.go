package sender

// Waiting tells how many messages wait for a connection, and are not offered on
// one yet.
func (e *Email) Waiting() int {
	n := 0
	for _, r := range e.routes {
		r.pool.mu.Lock()
		n += len(r.pool.queue)
		r.pool.mu.Unlock()
	}
	return n
}
