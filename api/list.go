package api

import (
	"context"
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mailcrane/mailcrane/outbox"
)

// Page is the part of a request that says which page of a list is meant.
type Page struct {
	After string `query:"after" maxLength:"100" example:"MDE5ODBhM2MtNTJhNC03YzNlLTlkMWYtNmEwZjZjOWE3YjIx" doc:"next of the answer before. Default: from the newest."`
	Limit int    `query:"limit" minimum:"1" maximum:"100" default:"50" doc:"How many, at most."`
}

var uuidShape = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// last is the id of the last row of the page before.
func (p Page) last() (string, error) {
	id, err := base64.RawURLEncoding.DecodeString(p.After)
	if err != nil || p.After != "" && !uuidShape.Match(id) {
		return "", newInputProblem(inputError{"query.after", "is not the next of an answer"})
	}
	return string(id), nil
}

// cut makes a page of rows, of which there is one more if there is a next page.
func cut[Row any](rows []Row, limit int, id func(Row) string) (page []Row, next string) {
	if len(rows) <= limit {
		return rows, ""
	}
	page = rows[:limit]
	return page, base64.RawURLEncoding.EncodeToString([]byte(id(page[limit-1])))
}

type invitationsInput struct {
	Page
	GroupID string `query:"group_id" maxLength:"255" example:"42" doc:"Only those to this group."`
	Email   string `query:"email" maxLength:"254" example:"ada@example.com" doc:"Only those of this address, in whatever case."`
	Status  string `query:"status" enum:"pending,accepted,declined,revoked,expired" doc:"Only those that stand so."`
}

// Resolve refuses what no text of PostgreSQL can hold.
func (in *invitationsInput) Resolve(huma.Context) []error {
	return unstorableTexts(map[string]string{"query.group_id": in.GroupID, "query.email": in.Email})
}

type invitationsOutput struct {
	Body struct {
		Invitations []invitation `json:"invitations" nullable:"false" doc:"Newest first."`
		Next        string       `json:"next,omitempty" example:"MDE5ODBhM2MtNTJhNC03YzNlLTlkMWYtNmEwZjZjOWE3YjIx" doc:"For after of the next request. Missing: that is all."`
	}
}

type messagesInput struct {
	Page
	InvitationID string `query:"invitation_id" maxLength:"36" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21" doc:"Only those about this invitation."`
	Recipient    string `query:"recipient" maxLength:"254" example:"ada@example.com" doc:"Only those to this address, in whatever case."`
	Template     string `query:"template" maxLength:"64" example:"invitation" doc:"Only those of this template."`
	Status       string `query:"status" enum:"queued,sent,failed,held,suppressed,cancelled" doc:"Only those that stand so."`
}

// Resolve refuses what no text of PostgreSQL can hold.
func (in *messagesInput) Resolve(huma.Context) []error {
	errs := unstorableTexts(map[string]string{"query.recipient": in.Recipient, "query.template": in.Template})
	if in.InvitationID != "" && !uuidShape.MatchString(in.InvitationID) {
		errs = append(errs, &huma.ErrorDetail{Location: "query.invitation_id", Message: "is not the id of an invitation"})
	}
	return errs
}

type messagesOutput struct {
	Body struct {
		Messages []message `json:"messages" nullable:"false" doc:"Newest first."`
		Next     string    `json:"next,omitempty" example:"MDE5ODBhM2MtNTJhNC03YzNlLTlkMWYtNmEwZjZjOWE3YjIx" doc:"For after of the next request. Missing: that is all."`
	}
}

func unstorableTexts(texts map[string]string) (errs []error) {
	for location, text := range texts {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			errs = append(errs, &huma.ErrorDetail{Location: location, Message: "is not text in UTF-8"})
		}
	}
	return errs
}

func (s *server) listInvitations(ctx context.Context, in *invitationsInput) (*invitationsOutput, error) {
	last, err := in.last()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	records, err := outbox.ListInvitations(ctx, s.pool, outbox.InvitationFilter{
		Tenant:  tenantOf(ctx),
		GroupID: in.GroupID, Email: in.Email, Status: in.Status, After: last, Limit: in.Limit + 1,
	})
	if err != nil {
		return nil, fmt.Errorf("list invitations: %w", err)
	}
	out := &invitationsOutput{}
	records, out.Body.Next = cut(records, in.Limit, func(r outbox.InvitationRecord) string { return r.ID })
	out.Body.Invitations = each(records, newInvitation)
	return out, nil
}

func (s *server) listMessages(ctx context.Context, in *messagesInput) (*messagesOutput, error) {
	last, err := in.last()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	records, err := outbox.ListMessages(ctx, s.pool, outbox.MessageFilter{
		Tenant:       tenantOf(ctx),
		InvitationID: in.InvitationID, Recipient: in.Recipient, Template: in.Template, Status: outbox.Status(in.Status), After: last, Limit: in.Limit + 1,
	})
	if err != nil {
		return nil, fmt.Errorf("list messages: %w", err)
	}
	out := &messagesOutput{}
	records, out.Body.Next = cut(records, in.Limit, func(r outbox.MessageRecord) string { return r.ID })
	out.Body.Messages = each(records, newMessage)
	return out, nil
}
