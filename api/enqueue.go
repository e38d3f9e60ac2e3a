package api

import (
	"context"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mailcrane/mailcrane/outbox"
)

// enqueueInput is the request of [server.enqueue].
type enqueueInput struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"A second request with the same key gives the first one's result, and writes nothing."`
	Body           enqueueBody
}

// enqueueBody leaves the judgement of its values to the database, as all other
// doors do.
type enqueueBody struct {
	Recipient string         `json:"recipient" example:"ada@example.com" doc:"The address to write to."`
	Template  string         `json:"template" example:"verify" doc:"The name of the template. Invitations have a path of their own."`
	Locale    string         `json:"locale,omitempty" example:"de-AT" doc:"The language of the mail (BCP 47). Default: en."`
	Data      map[string]any `json:"data,omitempty" doc:"Values for the template, under data."`
	SendAfter time.Time      `json:"send_after,omitzero" example:"2026-01-31T09:00:00Z" doc:"Do not send before (RFC 3339). Default: at once."`
	ExpiresIn int64          `json:"expires_in,omitempty" minimum:"1" maximum:"31622400" example:"3600" doc:"Do not send later than so many seconds after send_after or now. Default: until the policy gives up."`
	Priority  int            `json:"priority,omitempty" minimum:"1" maximum:"4" example:"2" doc:"1 is sent first, 4 last. Default: 2."`
}

// Resolve refuses what JSON would make the same as other keys.
func (in *enqueueInput) Resolve(huma.Context) []error {
	if !utf8.ValidString(in.IdempotencyKey) {
		return []error{&huma.ErrorDetail{Location: "header.Idempotency-Key", Message: "is not UTF-8"}}
	}
	return nil
}

// enqueueOutput is the answer of [server.enqueue].
type enqueueOutput struct {
	Location string `header:"Location" example:"/v1/messages/01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49" doc:"Where to see what becomes of the message."`
	Body     enqueued
}

type enqueued struct {
	ID     string        `json:"id" format:"uuid" example:"01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49" doc:"The id of the message."`
	Result outbox.Result `json:"result" enum:"created,existing" example:"created" doc:"created: written; what becomes of it, it says itself. existing: there was one under the same key, and nothing was written."`
}

func (s *server) enqueue(ctx context.Context, in *enqueueInput) (*enqueueOutput, error) {
	draft := outbox.Draft{
		Tenant:         tenantOf(ctx),
		Recipient:      in.Body.Recipient,
		Template:       in.Body.Template,
		Locale:         in.Body.Locale,
		Data:           in.Body.Data,
		SendAfter:      in.Body.SendAfter,
		ExpiresIn:      time.Duration(in.Body.ExpiresIn) * time.Second,
		Priority:       in.Body.Priority,
		IdempotencyKey: in.IdempotencyKey,
	}
	receipt, err := commit(ctx, s.pool, func(ctx context.Context, tx outbox.Tx) (outbox.Receipt, error) {
		return outbox.Enqueue(ctx, tx, draft)
	})
	if err != nil {
		return nil, err
	}
	return &enqueueOutput{
		Location: "/v1/messages/" + receipt.MessageID,
		Body:     enqueued{ID: receipt.MessageID, Result: told(receipt.Result)},
	}, nil
}
