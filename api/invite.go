package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mailcrane/mailcrane/outbox"
)

// writeTimeout is how long a write may take, getting a connection included.
const writeTimeout = 10 * time.Second

// maxContended is how often [insist] tries.
const maxContended = 3

// inviteInput is the request of [server.invite].
type inviteInput struct {
	GroupID        string `path:"group_id" maxLength:"255" example:"42" doc:"The application's id of the group."`
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"A second request with the same key gives the first one's result, and writes nothing."`
	Body           inviteBody
}

// inviteBody leaves the judgement of addresses, names and links to the
// database, as all other doors do. What is here is for the description, and for
// values that have no place in the fields.
type inviteBody struct {
	Email       string         `json:"email" example:"ada@example.com" doc:"The address to write to."`
	GroupName   string         `json:"group_name,omitempty" example:"Analytical Engine Club" doc:"What the mail calls the group. At most 100 characters, no web addresses."`
	InviterID   string         `json:"inviter_id,omitempty" example:"7" doc:"The application's id of the inviter."`
	InviterName string         `json:"inviter_name,omitempty" example:"Charles" doc:"What the mail calls the inviter. At most 100 characters, no web addresses."`
	Link        string         `json:"link,omitempty" example:"https://example.com/join/42" doc:"Where to accept. Default: the daemon makes a link with a token."`
	Locale      string         `json:"locale,omitempty" example:"de-AT" doc:"The language of the mail (BCP 47). Default: en."`
	Data        map[string]any `json:"data,omitempty" doc:"More values for the template."`
	SendAfter   time.Time      `json:"send_after,omitzero" example:"2026-01-31T09:00:00Z" doc:"Do not send before (RFC 3339). Default: at once."`
	ExpiresIn   int64          `json:"expires_in,omitempty" minimum:"1" maximum:"31622400" example:"604800" doc:"For how many seconds it can be accepted, from send_after or now. Default: 7 days."`
	Priority    int            `json:"priority,omitempty" minimum:"1" maximum:"4" example:"2" doc:"1 is sent first, 4 last. Default: 2."`
	RemindAfter []int64        `json:"remind_after,omitempty" nullable:"false" maxItems:"10" minimum:"3600" maximum:"31622400" example:"[172800,432000]" doc:"After how many seconds to remind who has not answered, from send_after or now, each an hour after the one before at least, and before it expires. Default: never."`
}

// Resolve refuses text that is not UTF-8. The call of the database is JSON,
// which would make all such keys one and the same.
func (in *inviteInput) Resolve(huma.Context) []error {
	var errs []error
	if !utf8.ValidString(in.GroupID) {
		errs = append(errs, &huma.ErrorDetail{Location: "path.group_id", Message: "is not UTF-8"})
	}
	if !utf8.ValidString(in.IdempotencyKey) {
		errs = append(errs, &huma.ErrorDetail{Location: "header.Idempotency-Key", Message: "is not UTF-8"})
	}
	return errs
}

// inviteOutput is the answer of [server.invite].
type inviteOutput struct {
	Location string `header:"Location" example:"/v1/invitations/01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21" doc:"Where to see what becomes of the invitation."`
	Body     inviteReceipt
}

type inviteReceipt struct {
	ID        string        `json:"id" format:"uuid" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21" doc:"The id of the invitation."`
	MessageID string        `json:"message_id" format:"uuid" example:"01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49" doc:"The id of the latest message about it."`
	GroupID   string        `json:"group_id" example:"42" doc:"The application's id of the group."`
	Status    string        `json:"status" enum:"pending,accepted,declined,revoked,expired" example:"pending" doc:"Where the invitation stands."`
	Result    outbox.Result `json:"result" enum:"created,existing" example:"created" doc:"created: written; what becomes of its message, the message says. existing: there was one under the same key, or one pending for the address in this group, and nothing was written."`
}

// invite writes an invitation and its message, or finds the one that there is.
func (s *server) invite(ctx context.Context, in *inviteInput) (*inviteOutput, error) {
	invitation := in.Body.invitation(tenantOf(ctx), in.GroupID, in.IdempotencyKey)
	receipt, err := commit(ctx, s.pool, func(ctx context.Context, tx outbox.Tx) (outbox.Receipt, error) {
		return outbox.Invite(ctx, tx, invitation)
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	out := &inviteOutput{
		Location: "/v1/invitations/" + receipt.InvitationID,
		Body: inviteReceipt{
			ID:        receipt.InvitationID,
			MessageID: receipt.MessageID,
			GroupID:   invitation.GroupID,
			Status:    "pending",
			Result:    told(receipt.Result),
		},
	}
	if receipt.Result != outbox.Existing {
		return out, nil
	}
	existing, err := outbox.GetInvitation(ctx, s.db(ctx), receipt.InvitationID)
	if errors.Is(err, outbox.ErrNotFound) {
		return nil, newProblem(databaseTrouble, "Retry-After", "1").because("The invitation was deleted at the same moment. Repeat the request.")
	}
	if err != nil {
		return nil, fmt.Errorf("existing invitation: %w", err)
	}
	out.Body.GroupID, out.Body.Status = existing.GroupID, existing.Status
	return out, nil
}

// told is what a client is told of a result. Whether an address must not be written
// to is nobody's business who can name it: that is for those who may read messages.
func told(result outbox.Result) outbox.Result {
	if result == outbox.Suppressed {
		return outbox.Created
	}
	return result
}

// insist repeats a write that PostgreSQL undoes because of another one at the
// same moment.
func insist[T any](write func() (T, error)) (T, error) {
	for try := 1; ; try++ {
		written, err := write()
		if err == nil || try == maxContended || !contended(err) {
			return written, err
		}
	}
}

func (b *inviteBody) invitation(tenant, groupID, key string) outbox.Invitation {
	remindAfter := make([]time.Duration, len(b.RemindAfter))
	for i, seconds := range b.RemindAfter {
		remindAfter[i] = time.Duration(seconds) * time.Second
	}
	return outbox.Invitation{
		Tenant:         tenant,
		GroupID:        strings.TrimSpace(groupID),
		GroupName:      b.GroupName,
		Email:          b.Email,
		InviterID:      b.InviterID,
		InviterName:    b.InviterName,
		Link:           b.Link,
		Locale:         b.Locale,
		Data:           b.Data,
		SendAfter:      b.SendAfter,
		ExpiresIn:      time.Duration(b.ExpiresIn) * time.Second,
		Priority:       b.Priority,
		IdempotencyKey: key,
		RemindAfter:    remindAfter,
	}
}
