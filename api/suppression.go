package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mailcrane/mailcrane/outbox"
)

type suppressionsInput struct{ Page }

type suppressionsOutput struct {
	Body struct {
		Suppressions []suppression `json:"suppressions" nullable:"false" doc:"In alphabetical order."`
		Next         string        `json:"next,omitempty" example:"YWRhQGV4YW1wbGUuY29t" doc:"For after of the next request. Missing: that is all."`
	}
}

// suppression is an [outbox.Suppression].
type suppression struct {
	Address   string    `json:"address" example:"ada@example.com"`
	Reason    string    `json:"reason" example:"asked us to stop"`
	Source    string    `json:"source" example:"operator" doc:"Who says so: operator, bounce, complaint, …"`
	CreatedAt time.Time `json:"created_at" example:"2030-01-31T09:00:00.123456Z"`
}

type suppressInput struct {
	Body struct {
		Address string `json:"address" example:"ada@example.com" doc:"The address, in whatever case."`
		Reason  string `json:"reason,omitempty" example:"asked us to stop" doc:"For people. At most 500 characters."`
		Source  string `json:"source,omitempty" example:"operator" doc:"Who says so. Default: operator."`
	}
}

type suppressedOutput struct{ Body suppressed }

type suppressed struct {
	Created  int64 `json:"created" example:"1" doc:"How many are new."`
	Existing int64 `json:"existing" example:"0" doc:"How many there were already. They stay as they are."`
}

type unsuppressInput struct {
	Address string `path:"address" maxLength:"254" example:"ada@example.com" doc:"The address, in whatever case."`
}

// importInput is the request of [server.importSuppressions], which reads the body
// itself.
type importInput struct{ body io.Reader }

// Resolve keeps what only huma knows.
func (in *importInput) Resolve(ctx huma.Context) []error {
	in.body = ctx.BodyReader()
	return nil
}

func (s *server) listSuppressions(ctx context.Context, in *suppressionsInput) (*suppressionsOutput, error) {
	after, err := base64.RawURLEncoding.DecodeString(in.After)
	if err != nil || unstorableTexts(map[string]string{"query.after": string(after)}) != nil {
		return nil, newInputProblem(inputError{"query.after", "is not the next of an answer"})
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	list, err := outbox.ListSuppressions(ctx, s.pool, outbox.SuppressionFilter{Tenant: tenantOf(ctx), After: string(after), Limit: in.Limit + 1})
	if err != nil {
		return nil, err
	}
	out := &suppressionsOutput{}
	list, out.Body.Next = cut(list, in.Limit, func(s outbox.Suppression) string { return s.Address })
	out.Body.Suppressions = each(list, func(s outbox.Suppression) suppression {
		return suppression{Address: s.Address, Reason: s.Reason, Source: s.Source, CreatedAt: s.CreatedAt.UTC()}
	})
	return out, nil
}

func (s *server) suppress(ctx context.Context, in *suppressInput) (*suppressedOutput, error) {
	return s.suppressAll(ctx, []outbox.Suppression{{Address: in.Body.Address, Reason: in.Body.Reason, Source: in.Body.Source}})
}

func (s *server) suppressAll(ctx context.Context, list []outbox.Suppression) (*suppressedOutput, error) {
	created, err := commit(ctx, s.pool, func(ctx context.Context, tx outbox.Tx) (int64, error) {
		return outbox.Suppress(ctx, tx, tenantOf(ctx), list...)
	})
	if err != nil {
		return nil, err
	}
	return &suppressedOutput{Body: suppressed{Created: created, Existing: int64(len(list)) - created}}, nil
}

func (s *server) unsuppress(ctx context.Context, in *unsuppressInput) (*struct{}, error) {
	_, err := commit(ctx, s.pool, func(ctx context.Context, tx outbox.Tx) (struct{}, error) {
		err := outbox.Unsuppress(ctx, tx, tenantOf(ctx), in.Address)
		if erased := outbox.ErasedAddress(s.secret, in.Address); erased != "" {
			before := outbox.Unsuppress(ctx, tx, tenantOf(ctx), erased)
			if errors.Is(err, outbox.ErrNotFound) {
				err = before
			}
		}
		return struct{}{}, err
	})
	return nil, err
}

func (s *server) importSuppressions(ctx context.Context, in *importInput) (*suppressedOutput, error) {
	body, err := io.ReadAll(in.body)
	if err != nil {
		return nil, brokenBody(err)
	}
	list, err := outbox.ReadSuppressions(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	out, err := s.suppressAll(ctx, list)
	if input, ok := errors.AsType[*outbox.InputError](err); ok {
		return nil, fromLines(input)
	}
	return out, err
}

// fromLines says in which lines of a list the problems are.
func fromLines(input *outbox.InputError) *problem {
	p := newInputProblem()
	for _, found := range input.Problems {
		p.Errors = append(p.Errors, inputError{fmt.Sprintf("body.lines[%d].%s", found.Item, found.Field), found.Problem})
	}
	return p
}
