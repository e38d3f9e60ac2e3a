package outboxtest

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/mailcrane/mailcrane/outbox"
)

// Recorder is an [outbox.Sender] that sends nothing and remembers everything, for
// tests of an application together with a relay. Its zero value accepts every
// message. It is safe for concurrent use.
type Recorder struct {
	// Fail, if set, decides what becomes of a message before it is handed over:
	// an error is the result of the attempt, and the message is not recorded.
	Fail func(*outbox.Message) error

	// Answer, if set, is what the next hop says once it has the message, which is
	// recorded whatever it says. An [*outbox.SendError] with [outbox.Unknown] is
	// an answer that never came. Default: acceptance.
	Answer func(*outbox.Message) (outbox.Reply, error)

	mu       sync.Mutex
	messages []outbox.Message
	changed  chan struct{}
}

// Send implements [outbox.Sender].
func (r *Recorder) Send(ctx context.Context, m *outbox.Message, handover outbox.Handover) (outbox.Reply, error) {
	const relay = "recorder"
	if r.Fail != nil {
		if err := r.Fail(m); err != nil {
			return outbox.Reply{Relay: relay}, err
		}
	}
	if err := handover(ctx, relay); err != nil {
		return outbox.Reply{}, err
	}
	r.record(m)
	if r.Answer != nil {
		return r.Answer(m)
	}
	return outbox.Reply{Relay: relay, Code: 250, Text: "recorded"}, nil
}

func (r *Recorder) record(m *outbox.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, *m)
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// Messages gives what was handed over so far, in order. A message that was handed
// over twice is there twice.
func (r *Recorder) Messages() []outbox.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.messages)
}

// Wait waits until n messages were handed over, and gives them.
func (r *Recorder) Wait(ctx context.Context, n int) ([]outbox.Message, error) {
	for {
		r.mu.Lock()
		messages := slices.Clone(r.messages)
		if r.changed == nil {
			r.changed = make(chan struct{})
		}
		changed := r.changed
		r.mu.Unlock()
		if len(messages) >= n {
			return messages, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return messages, fmt.Errorf("%d of %d messages were handed over: %w", len(messages), n, ctx.Err())
		}
	}
}
