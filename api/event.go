package api

import (
	"context"
	"regexp"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mailcrane/mailcrane/outbox"
)

type eventsInput struct {
	After string `query:"after" maxLength:"40" example:"7341-12" doc:"next of the answer before. Default: from the first event."`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many, at most."`
}

var eventID = regexp.MustCompile(`^[0-9]{1,18}-[0-9]{1,18}$`)

// Resolve refuses what no text of PostgreSQL can hold, among others.
func (in *eventsInput) Resolve(huma.Context) []error {
	if in.After != "" && !eventID.MatchString(in.After) {
		return []error{&huma.ErrorDetail{Location: "query.after", Message: "is not the next of an answer"}}
	}
	return nil
}

type eventsOutput struct{ Body events }

type events struct {
	Events []event `json:"events" nullable:"false" doc:"Oldest first. Empty: nothing has happened since."`
	Next   string  `json:"next" example:"7341-12" doc:"For after of the next request, also if there are no events yet."`
}

// event is an [outbox.Event].
type event struct {
	ID           string    `json:"id" example:"7341-12"`
	Type         string    `json:"type" example:"message.sent" doc:"invitation.created, .accepted, .declined, .revoked, .expired; message.sent, .failed, .held, .suppressed, .cancelled, .queued (again), .deferred, .unknown. There may be more."`
	InvitationID string    `json:"invitation_id,omitempty" format:"uuid" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21"`
	MessageID    string    `json:"message_id,omitempty" format:"uuid" example:"01980a3c-52a5-70b2-8f1e-0d4f1c2b3a49"`
	GroupID      string    `json:"group_id,omitempty" example:"42"`
	Detail       string    `json:"detail,omitempty" doc:"Why, if there is more to say."`
	CreatedAt    time.Time `json:"created_at" example:"2030-01-31T09:00:00.123456Z"`
}

func (s *server) listEvents(ctx context.Context, in *eventsInput) (*eventsOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	list, err := outbox.ListEvents(ctx, s.pool, outbox.EventFilter{Tenant: tenantOf(ctx), After: in.After, Limit: in.Limit})
	if err != nil {
		return nil, err
	}
	out := &eventsOutput{Body: events{Events: each(list, newEvent), Next: in.After}}
	if len(list) > 0 {
		out.Body.Next = list[len(list)-1].ID
	}
	return out, nil
}

func newEvent(e outbox.Event) event {
	return event{
		ID:           e.ID,
		Type:         e.Type,
		InvitationID: e.InvitationID,
		MessageID:    e.MessageID,
		GroupID:      e.GroupID,
		Detail:       e.Detail,
		CreatedAt:    e.CreatedAt.UTC(),
	}
}
