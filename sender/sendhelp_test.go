package sender_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
)

// noHandover is for messages that must not come that far.
func noHandover(t testing.TB) outbox.Handover {
	return func(context.Context, string) error {
		t.Error("handover was called")
		return nil
	}
}

var discard = slog.New(slog.DiscardHandler)

// recordingLogger gives a logger, and what it wrote.
func recordingLogger() (*slog.Logger, *safeBuffer) {
	var b safeBuffer
	return slog.New(slog.NewTextHandler(&b, nil)), &b
}

type safeBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
