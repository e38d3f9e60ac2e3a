package api

import (
	"context"

	"github.com/mailcrane/mailcrane/outbox"
)

// tokenInput is a request about the invitation that a token is for. The token is in
// the body: paths are logged on the way.
type tokenInput struct {
	Body struct {
		Token string `json:"token" maxLength:"255" example:"AZgKPFKkfD6dH2oPbJp7IZ0pXx8hY2bM7c3T5u8vWQk" doc:"What the link in the mail has in the place of {token}."`
	}
}

// addressInput is a request to mail an invitation to another address.
type addressInput struct {
	ID   string `path:"id" maxLength:"64" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21" doc:"The id that the answer to the invitation gave."`
	Body struct {
		Email string `json:"email" example:"ada@example.com" doc:"The address to write to from now on."`
	}
}

type stoppedOutput struct{ Body stopped }

// stopped says whether something was withdrawn in time.
type stopped struct {
	ID     string         `json:"id" format:"uuid" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21"`
	Result outbox.Stopped `json:"result,omitempty" enum:"stopped,already_sent,in_flight" example:"stopped" doc:"stopped: no relay has a mail about it. already_sent: one was accepted by a relay. in_flight: a relay may have one, and nobody can say yet. None in answers to keys that may not read what it is about."`
}

// mailedOutput is the answer to a request that mails an invitation again.
type mailedOutput struct {
	Location string `header:"Location" example:"/v1/invitations/01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21" doc:"Where to see what becomes of the invitation."`
	Body     mailed
}

type mailed struct {
	ID        string        `json:"id" format:"uuid" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21" doc:"The id of the invitation."`
	MessageID string        `json:"message_id" format:"uuid" example:"01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49" doc:"The id of the new message about it."`
	Result    outbox.Result `json:"result" enum:"created" example:"created" doc:"created: written; what becomes of it, it says itself."`
}

func (s *server) accept(ctx context.Context, in *tokenInput) (*invitationOutput, error) {
	return s.finishByToken(ctx, in.Body.Token, outbox.Accept)
}

func (s *server) decline(ctx context.Context, in *tokenInput) (*invitationOutput, error) {
	return s.finishByToken(ctx, in.Body.Token, outbox.Decline)
}

func (s *server) acceptInvitation(ctx context.Context, in *idInput) (*invitationOutput, error) {
	return s.finish(ctx, in.ID, outbox.AcceptInvitation)
}

func (s *server) declineInvitation(ctx context.Context, in *idInput) (*invitationOutput, error) {
	return s.finish(ctx, in.ID, outbox.DeclineInvitation)
}

func (s *server) finishByToken(
	ctx context.Context, token string, end func(context.Context, outbox.Tx, string) (outbox.InvitationRecord, error),
) (*invitationOutput, error) {
	if err := s.checkToken(ctx, token); err != nil {
		return nil, err
	}
	return s.finish(ctx, token, end)
}

// finish ends the invitation with the given token or id.
func (s *server) finish(
	ctx context.Context, by string, end func(context.Context, outbox.Tx, string) (outbox.InvitationRecord, error),
) (*invitationOutput, error) {
	record, err := commit(ctx, s.pool, func(ctx context.Context, tx outbox.Tx) (outbox.InvitationRecord, error) {
		return end(ctx, tx, by)
	})
	if err != nil {
		return nil, err
	}
	out := &invitationOutput{Body: newInvitation(record)}
	if !callerOf(ctx).may("invitations:read") {
		out.Body.Messages = []message{} // they tell whether the address is suppressed
	}
	return out, nil
}

func (s *server) verify(ctx context.Context, in *tokenInput) (*invitationOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	record, err := outbox.Verify(ctx, s.pool, in.Body.Token)
	if err != nil {
		return nil, err
	}
	if tenant := tenantOf(ctx); tenant != "" && tenant != record.Tenant {
		return nil, outbox.ErrInvalidToken
	}
	return &invitationOutput{Body: newInvitation(record)}, nil
}

func (s *server) revoke(ctx context.Context, in *idInput) (*stoppedOutput, error) {
	return s.stop(ctx, in.ID, "invitations:read", outbox.Revoke)
}

func (s *server) cancelMessage(ctx context.Context, in *idInput) (*stoppedOutput, error) {
	return s.stop(ctx, in.ID, "messages:read", outbox.CancelMessage)
}

func (s *server) stop(
	ctx context.Context, id, scope string, stop func(context.Context, outbox.Tx, string) (outbox.Stopped, error),
) (*stoppedOutput, error) {
	result, err := commit(ctx, s.pool, func(ctx context.Context, tx outbox.Tx) (outbox.Stopped, error) {
		return stop(ctx, tx, id)
	})
	if err != nil {
		return nil, err
	}
	if !callerOf(ctx).may(scope) {
		result = "" // what was never sent was suppressed
	}
	return &stoppedOutput{Body: stopped{ID: id, Result: result}}, nil
}

func (s *server) resend(ctx context.Context, in *idInput) (*mailedOutput, error) {
	return s.mailAgain(ctx, func(ctx context.Context, tx outbox.Tx) (outbox.Receipt, error) {
		return outbox.Resend(ctx, tx, in.ID)
	})
}

func (s *server) changeAddress(ctx context.Context, in *addressInput) (*mailedOutput, error) {
	return s.mailAgain(ctx, func(ctx context.Context, tx outbox.Tx) (outbox.Receipt, error) {
		return outbox.ChangeAddress(ctx, tx, in.ID, in.Body.Email)
	})
}

func (s *server) mailAgain(ctx context.Context, mail func(context.Context, outbox.Tx) (outbox.Receipt, error)) (*mailedOutput, error) {
	receipt, err := commit(ctx, s.pool, func(ctx context.Context, tx outbox.Tx) (outbox.Receipt, error) {
		return mail(ctx, tx)
	})
	if err != nil {
		return nil, err
	}
	return &mailedOutput{
		Location: "/v1/invitations/" + receipt.InvitationID,
		Body:     mailed{ID: receipt.InvitationID, MessageID: receipt.MessageID, Result: told(receipt.Result)},
	}, nil
}
