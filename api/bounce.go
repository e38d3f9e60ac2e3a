package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mailcrane/mailcrane/outbox"
)

func bouncesOperation() huma.Operation {
	op := listOperation("reportBounces", "/v1/bounces", "Bounces", "Report bounces and complaints",
		"Hard bounces and complaints keep the address from being written to, from now on. All or none are recorded; what has the same source and "+
			"source_id is recorded once. The body has at most 1 MiB.")
	op.Method = http.MethodPost
	return withBodyOf(op, maxBatchBody)
}

func providerOperation() huma.Operation {
	op := withBody(lookOperation("reportBouncesOfProvider", "/v1/bounces/{provider}", "Bounces", "Report bounces as a provider writes them",
		"For the web hooks of Amazon SES (direct, or by SNS), Postmark, SendGrid and Mailgun. Events that are no bounces are ignored. "+
			"Who cannot send a bearer token puts it into the URL as a password: https://provider:TOKEN@…"))
	op.Method = http.MethodPost
	op.Errors = append(op.Errors, http.StatusUnprocessableEntity)
	op.Security = []map[string][]string{{"token": {"bounces:write"}}, {"password": {}}}
	op.Metadata = map[string]any{streamedBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/json": {Schema: &huma.Schema{}, Example: map[string]any{"RecordType": "Bounce", "Type": "HardBounce", "ID": 42, "Email": "ada@example.com"}},
		"text/plain": {
			Schema:  &huma.Schema{Type: huma.TypeString, Description: "JSON all the same: SNS says so."},
			Example: `{"RecordType":"Bounce","Type":"HardBounce","ID":42,"Email":"ada@example.com"}`,
		},
	}}}
	return op
}

type bouncesInput struct {
	Body struct {
		Bounces []bounce `json:"bounces" nullable:"false" minItems:"1" maxItems:"1000" doc:"What is reported."`
	}
}

// bounce is an [outbox.Bounce].
type bounce struct {
	Kind            outbox.BounceKind `json:"kind" enum:"hard,soft,complaint" example:"hard" doc:"hard: the address does not take mail. soft: not now. complaint: it is spam, says who got it."`
	Address         string            `json:"address,omitempty" example:"ada@example.com" doc:"Whose. Default: the recipient of the message. Without an id, it is about the newest mail to this address."`
	MessageID       string            `json:"message_id,omitempty" maxLength:"255" example:"01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49" doc:"The id of the message."`
	HeaderMessageID string            `json:"header_message_id,omitempty" maxLength:"998" example:"<01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49@mail.example.com>" doc:"Or the Message-ID that it was sent under."`
	Diagnostic      string            `json:"diagnostic,omitempty" example:"550 5.1.1 No such user" doc:"What was said. The first 500 characters are kept, without tokens."`
	At              time.Time         `json:"at,omitzero" example:"2026-01-31T09:00:00Z" doc:"When (RFC 3339). Default: now."`
	Source          string            `json:"source,omitempty" example:"operator" doc:"Who says so. Default: operator."`
	SourceID        string            `json:"source_id,omitempty" example:"4711" doc:"How the source calls it: what is reported twice counts once."`
}

type bouncesOutput struct{ Body bouncesReceipt }

type bouncesReceipt struct {
	Recorded int        `json:"recorded" example:"1" doc:"How many are new."`
	Existing int        `json:"existing" example:"0" doc:"How many were reported before."`
	Ignored  int        `json:"ignored" example:"0" doc:"How many are no bounces, or about messages that are not here or no mail."`
	Results  []reported `json:"results" nullable:"false" doc:"What became of each bounce."`
}

type reported struct {
	Result    string `json:"result" enum:"recorded,existing,ignored" example:"recorded"`
	MessageID string `json:"message_id,omitempty" format:"uuid" example:"01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49" doc:"The message that it is about, if that is known."`
}

func (s *server) reportBounces(ctx context.Context, in *bouncesInput) (*bouncesOutput, error) {
	results, err := s.recordBounces(ctx, each(in.Body.Bounces, func(b bounce) outbox.Bounce { return outbox.Bounce(b) }))
	if input, ok := errors.AsType[*outbox.InputError](err); ok {
		return nil, fromBounces(input)
	}
	if err != nil {
		return nil, err
	}
	return bouncesAnswer(results, 0), nil
}

// fromBounces says which of the bounces the problems are about.
func fromBounces(input *outbox.InputError) *problem {
	p := newInputProblem()
	for _, found := range input.Problems {
		p.Errors = append(p.Errors, inputError{fmt.Sprintf("body.bounces[%d].%s", found.Item, found.Field), found.Problem})
	}
	return p
}

func (s *server) recordBounces(ctx context.Context, bounces []outbox.Bounce) ([]outbox.Reported, error) {
	return commit(ctx, s.pool, func(ctx context.Context, tx outbox.Tx) ([]outbox.Reported, error) {
		return outbox.ReportBounces(ctx, tx, tenantOf(ctx), bounces...)
	})
}

func bouncesAnswer(results []outbox.Reported, ignored int) *bouncesOutput {
	out := &bouncesOutput{bouncesReceipt{Ignored: ignored, Results: each(results, func(r outbox.Reported) reported { return reported(r) })}}
	for _, r := range results {
		switch r.Result {
		case "recorded":
			out.Body.Recorded++
		case "existing":
			out.Body.Existing++
		default:
			out.Body.Ignored++
		}
	}
	return out
}

// providerInput is the request of [server.reportBouncesOfProvider], which reads the
// body itself.
type providerInput struct {
	Provider string `path:"provider" maxLength:"64" example:"postmark" doc:"ses, postmark, sendgrid or mailgun."`

	body io.Reader
}

// Resolve keeps what only huma knows.
func (in *providerInput) Resolve(ctx huma.Context) []error {
	in.body = ctx.BodyReader()
	return nil
}

func (s *server) reportBouncesOfProvider(ctx context.Context, in *providerInput) (*bouncesOutput, error) {
	p, known := s.providers[in.Provider]
	if !known {
		return nil, newProblem(notFound).because("There is no such provider: POST to /v1/bounces what you make of its report.")
	}
	body, err := io.ReadAll(in.body)
	if err != nil {
		return nil, brokenBody(err)
	}
	if err := checkDocument(body); err != nil {
		return nil, brokenDocument(err)
	}
	document, err := decodeDocument(body)
	if err != nil {
		return nil, brokenDocument(err)
	}
	if first("Type", document) == "SubscriptionConfirmation" {
		return s.noteSubscription(ctx, document)
	}
	r := p.read(in.Provider, document)
	for len(r.bounces) > 0 {
		results, err := s.recordBounces(ctx, r.bounces[:min(len(r.bounces), maxBatch)])
		if input, ok := errors.AsType[*outbox.InputError](err); ok && r.drop(input) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r.bounces, r.results = r.bounces[len(results):], append(r.results, results...)
	}
	return bouncesAnswer(r.results, r.ignored), nil
}

// confirmation is the URL that confirms a subscription to a topic of Amazon SNS.
var confirmation = regexp.MustCompile(`^https://sns\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/\?[!-~]{1,1000}$`)

// noteSubscription leaves it to the operator whether the topic is his: a program that
// opens URLs which it is sent can be sent anywhere. The URL can do nothing else, and
// only for three days.
func (s *server) noteSubscription(ctx context.Context, document any) (*bouncesOutput, error) {
	subscribe, topic := textAt([]string{"SubscribeURL"}, document), textAt([]string{"TopicArn"}, document)
	if !confirmation.MatchString(subscribe) || len(topic) > 500 {
		return nil, newInputProblem(inputError{"body", "asks to confirm a subscription to a topic, with a SubscribeURL that is none of Amazon SNS"})
	}
	s.logger.LogAttrs(ctx, slog.LevelWarn, "Amazon SNS asks to confirm a subscription: open subscribe_url once if the topic is yours",
		slog.String("topic", topic), slog.String("subscribe_url", subscribe), slog.String("request_id", requestID(ctx)))
	return bouncesAnswer(nil, 1), nil
}

// drop ignores what the database refuses: addresses that are none. The provider
// would only send it again.
func (r *report) drop(input *outbox.InputError) bool {
	before := len(r.bounces)
	kept := r.bounces[:0:0]
	for i, b := range r.bounces {
		if !slices.ContainsFunc(input.Problems, func(p outbox.Problem) bool { return p.Item == i }) {
			kept = append(kept, b)
		}
	}
	r.bounces = kept
	r.ignored += before - len(kept)
	return len(kept) < before
}
