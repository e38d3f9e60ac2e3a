package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox"
)

// batchInput is the request of [server.inviteBatch], which reads the body itself.
type batchInput struct {
	GroupID string `path:"group_id" maxLength:"255" example:"42" doc:"The application's id of the group."`
	Atomic  bool   `query:"atomic" doc:"Write all of the invitations or, if one of them is refused, none. Default: write those that are not refused."`

	body io.Reader
}

// batchBody is for the description. What is read is one batchItem at a time.
type batchBody struct {
	Invitations []batchItem `json:"invitations" minItems:"1" maxItems:"1000" nullable:"false" doc:"Whom to invite."`
}

// batchItem is what an item has besides the fields of inviteBody.
type batchItem struct {
	IdempotencyKey string `json:"idempotency_key,omitempty" maxLength:"255" doc:"A second invitation with the same key gives the first one's result, and writes nothing."`
}

// TransformSchema adds the fields of inviteBody, which huma would not see in an
// embedded type that is not exported.
func (batchItem) TransformSchema(registry huma.Registry, s *huma.Schema) *huma.Schema {
	single := huma.SchemaFromType(registry, reflect.TypeFor[inviteBody]())
	maps.Copy(s.Properties, single.Properties)
	s.Required = single.Required
	s.PrecomputeMessages()
	return s
}

// Resolve keeps what only huma knows, and refuses what would be taken amiss.
func (in *batchInput) Resolve(ctx huma.Context) (errs []error) {
	in.body = ctx.BodyReader()
	if !utf8.ValidString(in.GroupID) {
		errs = append(errs, &huma.ErrorDetail{Location: "path.group_id", Message: "is not UTF-8"})
	}
	return errs
}

// batchOutput is the answer of [server.inviteBatch].
type batchOutput struct {
	Location string `header:"Location" example:"/v1/invitations?group_id=42" doc:"Where to see what becomes of the invitations to the group."`
	Body     batchReceipt
}

type batchReceipt struct {
	Created  int           `json:"created" example:"998" doc:"How many were written."`
	Existing int           `json:"existing" example:"1" doc:"How many there were already."`
	Refused  int           `json:"refused" example:"1" doc:"How many were not written."`
	Results  []batchResult `json:"results" nullable:"false" doc:"What became of each invitation, in the order of the request."`
}

// refused is the result of an item of which nothing was written.
const refused outbox.Result = "refused"

type batchResult struct {
	Result    outbox.Result `json:"result" enum:"created,existing,refused" example:"created" doc:"created and existing are as for a single invitation. refused: nothing was written, for the reasons in errors."`
	ID        string        `json:"id,omitempty" format:"uuid" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21" doc:"The id of the invitation."`
	MessageID string        `json:"message_id,omitempty" format:"uuid" example:"01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49" doc:"The id of the latest message about it."`
	Errors    []inputError  `json:"errors,omitempty" nullable:"false" doc:"What is wrong with it."`
}

// inviteBatch writes invitations, or finds those that there are, in one call of
// the database.
func (s *server) inviteBatch(ctx context.Context, in *batchInput) (*batchOutput, error) {
	b := &batch{tenant: tenantOf(ctx), groupID: in.GroupID, rules: s.itemRules}
	if err := b.read(in.body); err != nil {
		return nil, err
	}
	if in.Atomic && len(b.waiting) < len(b.results) {
		return nil, b.problem()
	}
	write := func(ctx context.Context, db beginner) (struct{}, error) {
		return struct{}{}, b.write(ctx, db, b.waiting, in.Atomic)
	}
	var err error
	if tx, ok := ctx.Value(txKey{}).(pgx.Tx); ok {
		_, err = write(ctx, tx)
	} else {
		_, err = detached(ctx, s.pool, write)
	}
	if err != nil {
		return nil, err
	}
	receipt := b.receipt()
	if receipt.Refused == len(b.results) {
		return nil, b.problem()
	}
	return &batchOutput{"/v1/invitations?group_id=" + url.QueryEscape(strings.TrimSpace(in.GroupID)), receipt}, nil
}

// batch is a request of many invitations, and what becomes of each.
type batch struct {
	tenant  string
	groupID string
	rules   rules
	waiting []placed      // to be written
	results []batchResult // of all, in the order of the request
}

// placed is an invitation with its place in the request.
type placed struct {
	outbox.Invitation
	place int
}

func (b *batch) refuse(place int, errs ...inputError) {
	r := &b.results[place]
	r.Result = refused
	for _, found := range errs {
		_, field, isField := strings.Cut(found.Location, ".")
		found.Location = fmt.Sprintf("body.invitations[%d]", place)
		if isField {
			found.Location += "." + field
		}
		r.Errors = append(r.Errors, found)
	}
}

// write writes the waiting ones in one call. Without those that the database
// refuses it asks again, unless it is all or nothing. Each round refuses some, and
// the database lists all that is wrong, so there are rarely more than two.
func (b *batch) write(ctx context.Context, db beginner, waiting []placed, atomic bool) error {
	for len(waiting) > 0 {
		invitations := make([]outbox.Invitation, len(waiting))
		for i, item := range waiting {
			invitations[i] = item.Invitation
		}
		receipts, err := inviteMany(ctx, db, invitations)
		if input, ok := errors.AsType[*outbox.InputError](err); ok {
			if err := b.refuseAll(waiting, input); err != nil {
				return err
			}
			if atomic {
				return b.problem()
			}
			waiting = slices.DeleteFunc(waiting, func(item placed) bool { return b.results[item.place].Result == refused })
			continue
		}
		if unstorable(err) && !atomic {
			return b.writeApart(ctx, db, waiting)
		}
		if err != nil {
			return err
		}
		for i, receipt := range receipts {
			b.results[waiting[i].place] = batchResult{Result: told(receipt.Result), ID: receipt.InvitationID, MessageID: receipt.MessageID}
		}
		return nil
	}
	return nil
}

// inviteMany asks the database, which in a transaction must not end that when it
// refuses.
func inviteMany(ctx context.Context, db beginner, invitations []outbox.Invitation) ([]outbox.Receipt, error) {
	return insist(func() (receipts []outbox.Receipt, err error) {
		if _, inTx := db.(pgx.Tx); !inTx {
			return outbox.InviteMany(ctx, db, invitations)
		}
		err = pgx.BeginFunc(ctx, db, func(savepoint pgx.Tx) error {
			receipts, err = outbox.InviteMany(ctx, savepoint, invitations)
			return err
		})
		return receipts, err
	})
}

// writeApart finds out which of the waiting ones has a value that the database
// cannot store: of these it says no more.
func (b *batch) writeApart(ctx context.Context, db beginner, waiting []placed) error {
	if len(waiting) == 1 {
		b.refuse(waiting[0].place, inputError{"body", unstorableValue})
		return nil
	}
	for half := range slices.Chunk(waiting, (len(waiting)+1)/2) {
		if err := b.write(ctx, db, half, false); err != nil {
			return err
		}
	}
	return nil
}

// refuseAll puts the refusals of the database to the items that they are about.
// An error is about all of them.
func (b *batch) refuseAll(waiting []placed, input *outbox.InputError) error {
	for _, found := range input.Problems {
		switch {
		case found.Field == "group_id":
			return newInputProblem(inputError{"path.group_id", found.Problem})
		case found.Field == "input" || found.Field == "invitations" || found.Item >= len(waiting):
			return input
		}
		b.refuse(waiting[found.Item].place, inputError{"body." + found.Field, found.Problem})
	}
	return nil
}

// problem lists what is wrong with each item.
func (b *batch) problem() *problem {
	p := newInputProblem()
	for _, r := range b.results {
		p.Errors = append(p.Errors, r.Errors...)
	}
	return p
}

func (b *batch) receipt() batchReceipt {
	receipt := batchReceipt{Results: b.results}
	for _, r := range b.results {
		switch r.Result {
		case outbox.Created:
			receipt.Created++
		case outbox.Existing:
			receipt.Existing++
		case refused:
			receipt.Refused++
		}
	}
	return receipt
}
