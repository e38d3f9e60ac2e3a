package api

import (
	"context"

	"github.com/mailcrane/mailcrane/outbox"
)

// queuedOutput is the answer to a request that sends a message again.
type queuedOutput struct {
	Location string `header:"Location" example:"/v1/messages/01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49" doc:"Where to see what becomes of the message."`
	Body     message
}

func (s *server) release(ctx context.Context, in *idInput) (*queuedOutput, error) {
	return s.sendAgain(ctx, in, outbox.ReleaseMessage)
}

func (s *server) retry(ctx context.Context, in *idInput) (*queuedOutput, error) {
	return s.sendAgain(ctx, in, outbox.RetryMessage)
}

func (s *server) sendAgain(ctx context.Context, in *idInput, decision func(context.Context, outbox.Tx, string) error) (*queuedOutput, error) {
	out, err := s.decide(ctx, in, decision)
	if err != nil {
		return nil, err
	}
	return &queuedOutput{Location: "/v1/messages/" + out.Body.ID, Body: out.Body}, nil
}

func (s *server) markSent(ctx context.Context, in *idInput) (*messageOutput, error) {
	return s.decide(ctx, in, outbox.MarkSent)
}

// decide carries out what a human has decided about a message, and answers
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
