package api

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mailcrane/mailcrane/outbox"
)

func createWebhookOperation() huma.Operation {
	op := listOperation("createWebhook", "/v1/webhooks", "Webhooks", "Tell a program elsewhere what happens",
		"From now on, by POST, signed as Standard Webhooks says. What is not answered with a status of success is repeated for a day; 410 disables the "+
			"webhook. Copies have the same webhook-id. Only public addresses can be reached, by https.")
	op.Method, op.DefaultStatus = http.MethodPost, http.StatusCreated
	op.Metadata = map[string]any{secretAnswer: true}
	return withBody(op)
}

func webhooksOperation() huma.Operation {
	op := listOperation("listWebhooks", "/v1/webhooks", "Webhooks", "Which webhooks are there?", "Newest first, all of them.")
	op.Errors = append(op.Errors, http.StatusUnprocessableEntity)
	return op
}

func webhookOperation() huma.Operation {
	return lookOperation("getWebhook", "/v1/webhooks/{id}", "Webhooks", "What is a webhook told?",
		"What it was sent are messages of the channel webhook, with its id for a recipient: GET /v1/messages?recipient={id}.")
}

func deleteWebhookOperation() huma.Operation {
	op := lookOperation("deleteWebhook", "/v1/webhooks/{id}", "Webhooks", "Remove a webhook", "What waits for it is withdrawn.")
	op.Method, op.DefaultStatus = http.MethodDelete, http.StatusNoContent
	return op
}

func rotateWebhookOperation() huma.Operation {
	op := withBody(lookOperation("rotateWebhook", "/v1/webhooks/{id}/rotate", "Webhooks", "Give a webhook another secret",
		"For a day, messages are signed with the one before as well, and there is no third."))
	op.Method = http.MethodPost
	op.Errors = append(op.Errors, http.StatusTooManyRequests)
	op.Metadata = map[string]any{secretAnswer: true}
	return op
}

func enableWebhookOperation() huma.Operation {
	op := withBody(lookOperation("enableWebhook", "/v1/webhooks/{id}/enable", "Webhooks", "Tell a disabled webhook what happens again",
		"And what has happened meanwhile, and what waited when it was disabled."))
	op.Method = http.MethodPost
	return op
}

func replayWebhookOperation() huma.Operation {
	op := withBody(lookOperation("replayWebhook", "/v1/webhooks/{id}/replay", "Webhooks", "Tell a webhook again what has happened",
		"Since an event that it has been told of, or from the first on. Copies have the same webhook-id."))
	op.Method, op.DefaultStatus = http.MethodPost, http.StatusAccepted
	return op
}

type createWebhookInput struct {
	Body struct {
		URL   string   `json:"url" example:"https://example.com/mailcrane" doc:"Where to POST to."`
		Types []string `json:"types,omitempty" nullable:"false" maxItems:"50" example:"[\"invitation.*\",\"message.bounced\"]" doc:"What to tell: types of events, or all that begin alike. Default: everything."`
	}
}

type createWebhookOutput struct {
	Location string `header:"Location" example:"/v1/webhooks/01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21" doc:"Where to see what the webhook is told."`
	Body     newWebhook
}

type newWebhookOutput struct{ Body newWebhook }

type newWebhook struct {
	ID     string `json:"id" format:"uuid" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21"`
	Secret string `json:"secret" example:"whsec_…" doc:"What messages are signed with."`
}

type webhooksOutput struct {
	Body struct {
		Webhooks []webhook `json:"webhooks" nullable:"false" doc:"Newest first."`
	}
}

type webhookOutput struct{ Body webhook }

type replayOutput struct {
	Location string `header:"Location" example:"/v1/webhooks/01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21" doc:"The webhook."`
	Body     webhook
}

// webhook is an [outbox.Webhook].
type webhook struct {
	ID              string    `json:"id" format:"uuid" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21"`
	URL             string    `json:"url" example:"https://example.com/mailcrane"`
	Types           []string  `json:"types" nullable:"false" example:"[\"invitation.*\",\"message.bounced\"]" doc:"What it is told. Empty: everything."`
	CreatedAt       time.Time `json:"created_at" example:"2030-01-31T09:00:00.123456Z"`
	RotatedAt       time.Time `json:"rotated_at,omitzero" example:"2030-02-01T09:00:00.123456Z" doc:"When it got another secret."`
	DisabledAt      time.Time `json:"disabled_at,omitzero" example:"2030-02-02T09:00:00.123456Z" doc:"Since when it is told nothing. Missing: it is."`
	DisabledBecause string    `json:"disabled_because,omitempty" doc:"Such as: it answered 410 Gone."`
	MissedAt        time.Time `json:"missed_at,omitzero" example:"2030-05-02T09:00:00.123456Z" doc:"When events were deleted last that it had not been told of: they are kept for 90 days."`
}

type replayInput struct {
	ID   string `path:"id" maxLength:"64" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21" doc:"The id of the webhook."`
	Body struct {
		After string `json:"after,omitempty" maxLength:"64" example:"1024-33" doc:"The id of the last event that it need not be told again. Default: from the first."`
	}
}

func (s *server) createWebhook(ctx context.Context, in *createWebhookInput) (*createWebhookOutput, error) {
	if len(s.secret) == 0 {
		return nil, newProblem(notReady).because("Webhooks need MAILCRANE_SECRET, which makes their secrets. Nothing was written.")
	}
	if s.webhookProblem != nil {
		if problem := s.webhookProblem(in.Body.URL); problem != "" {
			return nil, newInputProblem(inputError{"body.url", problem})
		}
	}
	id, err := commit(ctx, s.pool, func(ctx context.Context, tx outbox.Tx) (string, error) {
		return outbox.CreateWebhook(ctx, tx, tenantOf(ctx), in.Body.URL, in.Body.Types...)
	})
	if err != nil {
		return nil, err
	}
	shown, err := s.showSecret(ctx, id)
	if err != nil {
		return nil, err
	}
	return &createWebhookOutput{Location: "/v1/webhooks/" + id, Body: shown.Body}, nil
}

func (s *server) rotateWebhook(ctx context.Context, in *idInput) (*newWebhookOutput, error) {
	err := s.changeWebhook(ctx, in.ID, outbox.RotateWebhook)
	if limit, tooSoon := errors.AsType[*outbox.LimitError](err); tooSoon {
		return nil, fromLimitError(limit).because("The secret before the present one is still good, for a day after the rotation. " +
			"Nothing was written: repeat the request after Retry-After seconds.")
	}
	if err != nil {
		return nil, err
	}
	return s.showSecret(ctx, in.ID)
}

// showSecret gives the secret of a webhook as Standard Webhooks writes it.
func (s *server) showSecret(ctx context.Context, id string) (*newWebhookOutput, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	w, err := outbox.GetWebhook(ctx, s.pool, id)
	if err != nil {
		return nil, err
	}
	secret := outbox.WebhookSecret(s.secret, w.ID, w.Generation)
	return &newWebhookOutput{newWebhook{ID: id, Secret: "whsec_" + base64.StdEncoding.EncodeToString(secret)}}, nil
}

func (s *server) listWebhooks(ctx context.Context, _ *struct{}) (*webhooksOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	list, err := outbox.ListWebhooks(ctx, s.pool, tenantOf(ctx))
	if err != nil {
		return nil, err
	}
	out := &webhooksOutput{}
	out.Body.Webhooks = each(list, aWebhook)
	return out, nil
}

func (s *server) getWebhook(ctx context.Context, in *idInput) (*webhookOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	w, err := outbox.GetWebhook(ctx, s.db(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	return &webhookOutput{aWebhook(w)}, nil
}

func (s *server) deleteWebhook(ctx context.Context, in *idInput) (*struct{}, error) {
	return nil, s.changeWebhook(ctx, in.ID, outbox.DeleteWebhook)
}

func (s *server) enableWebhook(ctx context.Context, in *idInput) (*webhookOutput, error) {
	if err := s.changeWebhook(ctx, in.ID, outbox.EnableWebhook); err != nil {
		return nil, err
	}
	return s.getWebhook(ctx, in)
}

func (s *server) replayWebhook(ctx context.Context, in *replayInput) (*replayOutput, error) {
	err := s.changeWebhook(ctx, in.ID, func(ctx context.Context, tx outbox.Tx, id string) error {
		return outbox.ReplayWebhook(ctx, tx, id, in.Body.After)
	})
	if input, ok := errors.AsType[*outbox.InputError](err); ok {
		return nil, inBody(input)
	}
	if err != nil {
		return nil, err
	}
	out, err := s.getWebhook(ctx, &idInput{ID: in.ID})
	if err != nil {
		return nil, err
	}
	return &replayOutput{Location: "/v1/webhooks/" + out.Body.ID, Body: out.Body}, nil
}

func (s *server) changeWebhook(ctx context.Context, id string, change func(context.Context, outbox.Tx, string) error) error {
	_, err := commit(ctx, s.pool, func(ctx context.Context, tx outbox.Tx) (struct{}, error) {
		return struct{}{}, change(ctx, tx, id)
	})
	return err
}

func aWebhook(w outbox.Webhook) webhook {
	return webhook{
		ID: w.ID, URL: w.URL, Types: w.Types,
		CreatedAt: w.CreatedAt.UTC(), RotatedAt: utc(w.RotatedAt), DisabledAt: utc(w.DisabledAt), DisabledBecause: w.DisabledBecause,
		MissedAt: utc(w.MissedAt),
	}
}
