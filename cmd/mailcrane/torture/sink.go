//go:build unix

package torture

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"sync"
	"time"
)

// sink keeps what the relays have taken responsibility for: on disk before they
// say so, and in memory.
type sink struct {
	mu      sync.Mutex
	journal *os.File
	copies  map[string][]copied // by recipient
}

// copied is one mail as it came.
type copied struct {
	Recipient string    `json:"recipient"`
	Hash      string    `json:"sha256"`
	Whole     bool      `json:"whole"` // to the last boundary of its MIME parts
	At        time.Time `json:"at"`
}

func newSink(path string) (*sink, error) {
	journal, err := os.Create(path) //nolint:gosec // a file in our own folder
	if err != nil {
		return nil, err
	}
	return &sink{journal: journal, copies: map[string][]copied{}}, nil
}

// keep is called before the relay answers the dot.
func (s *sink) keep(_ string, to []string, raw []byte) error {
	hash := sha256.Sum256(raw)
	whole := bytes.HasSuffix(bytes.TrimRight(raw, "\r\n"), []byte("--"))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, recipient := range to {
		c := copied{recipient, hex.EncodeToString(hash[:]), whole, time.Now()}
		line, err := json.Marshal(c)
		if err != nil {
			return err
		}
		if _, err := s.journal.Write(append(line, '\n')); err != nil {
			return err
		}
		s.copies[recipient] = append(s.copies[recipient], c)
	}
	return s.journal.Sync()
}

// of gives the copies that went to a recipient.
func (s *sink) of(recipient string) []copied {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.copies[recipient]
}

// count is the number of mails so far.
func (s *sink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, copies := range s.copies {
		n += len(copies)
	}
	return n
}
