package api

import (
	"context"

	"github.com/mailcrane/mailcrane/outbox"
)

func (s *server) release(ctx context.Context, in *idInput) (*messageOutput, error) {
	return s.decide(ctx, in, outbox.ReleaseMessage)
}

func (s *server) retry(ctx context.Context, in *idInput) (*messageOutput, error) {
	return s.decide(ctx, in, outbox.RetryMessage)
}

func (s *server) markSent(ctx context.Context, in *idInput) (*messageOutput, error) {
	return s.decide(ctx, in, outbox.MarkSent)
}

// decide carries out what a human has decided about a held message, and answers
// with what the message is then.
func (s *server) decide(ctx context.Context, in *idInput, decision func(context.Context, outbox.Tx, string) error) (*messageOutput, error) {
	_, err := commit(ctx, s.pool, func(ctx context.Context, tx outbox.Tx) (struct{}, error) {
		return struct{}{}, decision(ctx, tx, in.ID)
	})
	if err != nil {
		return nil, err
	}
	return s.getMessage(ctx, in)
}
