package bench

import (
	"fmt"
	"os"
	"sync"
)

// journal is a file that mails are safe in. Those that come while the disk is
// busy go there together.
type journal struct {
	file *os.File

	mu      sync.Mutex
	turn    *sync.Cond
	waiting []byte // not written yet
	spare   []byte // to be used again
	group   int    // number of the group that waits
	flushed int    // number of the last group on disk
	busy    bool
	err     error // after the first, nothing is safe any more
}

func newJournal(path string) (*journal, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // the caller names it
	if err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	j := &journal{file: file, group: 1}
	j.turn = sync.NewCond(&j.mu)
	return j, nil
}

// write returns when the mail is on disk.
func (j *journal) write(mail []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.waiting = append(j.waiting, mail...)
	mine := j.group
	for j.flushed < mine && j.err == nil {
		if j.busy {
			j.turn.Wait()
			continue
		}
		j.flush()
	}
	return j.err
}

// flush writes the group that waits, and lets go of the lock meanwhile.
func (j *journal) flush() {
	group, number := j.waiting, j.group
	j.waiting, j.busy = j.spare[:0], true
	j.group++
	j.mu.Unlock()
	_, err := j.file.Write(group)
	if err == nil {
		err = j.file.Sync()
	}
	j.mu.Lock()
	j.spare, j.busy, j.flushed, j.err = group, false, number, err
	j.turn.Broadcast()
}

func (j *journal) close() error { return j.file.Close() }
