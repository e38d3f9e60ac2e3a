package api

import (
	"context"
	"fmt"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// readTimeout is how long a read may take, getting a connection included.
const readTimeout = 5 * time.Second

type idInput struct {
	ID string `path:"id" maxLength:"64" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21" doc:"The id that the answer to the invitation gave."`
}

type attemptsOutput struct {
	Body struct {
		Attempts []attempt `json:"attempts" nullable:"false" doc:"Oldest first."`
	}
}

type invitationOutput struct{ Body invitation }

type messageOutput struct{ Body message }

// invitation is an [outbox.InvitationRecord] without what is nobody's business
// here: the link, which is as good as a key, and the application's data.
type invitation struct {
	ID          string    `json:"id" format:"uuid" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21"`
	GroupID     string    `json:"group_id" example:"42"`
	GroupName   string    `json:"group_name,omitempty" example:"Analytical Engine Club"`
	InviterID   string    `json:"inviter_id,omitempty" example:"7"`
	InviterName string    `json:"inviter_name,omitempty" example:"Charles"`
	Email       string    `json:"email" example:"ada@example.com"`
	Locale      string    `json:"locale" example:"en"`
	Status      string    `json:"status" enum:"pending,accepted,declined,revoked,expired" example:"pending"`
	CreatedAt   time.Time `json:"created_at" example:"2030-01-31T09:00:00.123456Z"`
	ExpiresAt   time.Time `json:"expires_at" example:"2030-02-07T09:00:00.123456Z"`
	FinishedAt  time.Time `json:"finished_at,omitzero" example:"2030-02-01T10:00:00.123456Z" doc:"When it was accepted, declined, revoked or expired."`
	Resends     int       `json:"resends" example:"0" doc:"How often it was mailed again, to this address or another."`
	Reminders   int       `json:"reminders" example:"1" doc:"How many of the times to remind are over."`
	RemindAt    time.Time `json:"remind_at,omitzero" example:"2030-02-05T09:00:00.123456Z" doc:"When to remind next, if it is pending then."`
	Messages    []message `json:"messages" nullable:"false" doc:"The messages about it, oldest first. None in answers to those who may not read invitations."`
}

// message is an [outbox.MessageRecord] without its data.
type message struct {
	ID              string        `json:"id" format:"uuid" example:"01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49"`
	InvitationID    string        `json:"invitation_id,omitempty" format:"uuid" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21"`
	Channel         string        `json:"channel" example:"email"`
	Recipient       string        `json:"recipient" example:"ada@example.com"`
	Template        string        `json:"template" example:"invitation"`
	Locale          string        `json:"locale" example:"en"`
	Status          outbox.Status `json:"status" enum:"queued,sent,failed,held,suppressed,cancelled" example:"sent" doc:"queued: waiting, or in progress. sent: the next hop accepted responsibility. failed: given up, see the reason. held: waits for a human. suppressed: the address must not be written to. cancelled: withdrawn before it was sent."`
	Reason          string        `json:"reason,omitempty" doc:"Why it was not sent."`
	Priority        int           `json:"priority" minimum:"1" maximum:"4" example:"2"`
	SendAfter       time.Time     `json:"send_after,omitzero" example:"2030-01-31T09:00:00Z"`
	CreatedAt       time.Time     `json:"created_at" example:"2030-01-31T09:00:00.123456Z"`
	ExpiresAt       time.Time     `json:"expires_at,omitzero" example:"2030-02-07T09:00:00.123456Z" doc:"It is not sent later than this."`
	SentAt          time.Time     `json:"sent_at,omitzero" example:"2030-01-31T09:00:00.223456Z" doc:"When the next hop accepted it."`
	FinishedAt      time.Time     `json:"finished_at,omitzero" example:"2030-01-31T09:00:00.223456Z" doc:"When it reached a status that is for good."`
	HeaderMessageID string        `json:"header_message_id,omitempty" example:"01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49@example.com" doc:"The Message-ID of the mail, without angle brackets."`
	Attempts        []attempt     `json:"attempts" nullable:"false" doc:"Every try to hand it to the next hop, in order."`
}

// attempt is an [outbox.Attempt] without the daemon's name for itself.
type attempt struct {
	Number       int            `json:"number" minimum:"1" example:"1"`
	Outcome      outbox.Outcome `json:"outcome,omitempty" enum:"accepted,deferred,rejected,unknown" example:"accepted" doc:"Missing while the attempt is open."`
	Relay        string         `json:"relay,omitempty" example:"smtp.example.com:587" doc:"The next hop. Missing if none was reached."`
	Code         int            `json:"code,omitempty" example:"250" doc:"SMTP reply code (RFC 5321)."`
	EnhancedCode string         `json:"enhanced_code,omitempty" example:"2.0.0" doc:"Enhanced status code (RFC 3463)."`
	Reply        string         `json:"reply,omitempty" example:"OK: queued as 4bRxyz" doc:"What the relay said, or why it was not reached."`
	BeganAt      time.Time      `json:"began_at" example:"2030-01-31T09:00:00.123456Z"`
	FinishedAt   time.Time      `json:"finished_at,omitzero" example:"2030-01-31T09:00:00.223456Z"`
}

func (s *server) getInvitation(ctx context.Context, in *idInput) (*invitationOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	record, err := outbox.GetInvitation(ctx, s.db(ctx), in.ID)
	if err != nil {
		return nil, fmt.Errorf("get invitation: %w", err)
	}
	return &invitationOutput{Body: newInvitation(record)}, nil
}

func (s *server) getMessage(ctx context.Context, in *idInput) (*messageOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	record, err := outbox.GetMessage(ctx, s.db(ctx), in.ID)
	if err != nil {
		return nil, fmt.Errorf("get message: %w", err)
	}
	return &messageOutput{Body: newMessage(record)}, nil
}

func newInvitation(r outbox.InvitationRecord) invitation {
	return invitation{
		ID:          r.ID,
		GroupID:     r.GroupID,
		GroupName:   r.GroupName,
		InviterID:   r.InviterID,
		InviterName: r.InviterName,
		Email:       r.Email,
		Locale:      r.Locale,
		Status:      r.Status,
		CreatedAt:   r.CreatedAt.UTC(),
		ExpiresAt:   r.ExpiresAt.UTC(),
		FinishedAt:  utc(r.FinishedAt),
		Resends:     r.Resends,
		Reminders:   r.Reminders,
		RemindAt:    utc(r.RemindAt),
		Messages:    each(r.Messages, newMessage),
	}
}

func newMessage(r outbox.MessageRecord) message {
	m := message{
		ID:              r.ID,
		InvitationID:    r.InvitationID,
		Channel:         r.Channel,
		Recipient:       r.Recipient,
		Template:        r.Template,
		Locale:          r.Locale,
		Status:          r.Status,
		Reason:          r.Reason,
		Priority:        r.Priority,
		SendAfter:       utc(r.SendAfter),
		CreatedAt:       r.CreatedAt.UTC(),
		ExpiresAt:       utc(r.ExpiresAt),
		FinishedAt:      utc(r.FinishedAt),
		HeaderMessageID: r.HeaderMessageID,
		Attempts:        each(r.Attempts, newAttempt),
	}
	if m.Status == outbox.StatusSent {
		m.SentAt = m.FinishedAt
	}
	return m
}

func newAttempt(r outbox.Attempt) attempt {
	return attempt{
		Number:       r.Number,
		Outcome:      r.Outcome,
		Relay:        r.Relay,
		Code:         r.Code,
		EnhancedCode: r.Enhanced,
		Reply:        r.Reply,
		BeganAt:      r.BeganAt.UTC(),
		FinishedAt:   utc(r.FinishedAt),
	}
}

// utc gives the zero time for none, which the JSON leaves out.
func utc(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// each converts a list, and never to nil: JSON has [] for an empty list.
func each[A, B any](list []A, convert func(A) B) []B {
	converted := make([]B, len(list))
	for i, item := range list {
		converted[i] = convert(item)
	}
	return converted
}

func (s *server) listAttempts(ctx context.Context, in *idInput) (*attemptsOutput, error) {
	m, err := s.getMessage(ctx, in)
	if err != nil {
		return nil, err
	}
	out := &attemptsOutput{}
	out.Body.Attempts = m.Body.Attempts
	return out, nil
}
