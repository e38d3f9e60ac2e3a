package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mailcrane/mailcrane/outbox"
)

// Templates are the texts of the messages.
type Templates interface {
	// Names gives the templates that there are, and the language tags of each.
	Names() map[string][]string
	// Render fills the template that m names; html may be empty.
	Render(m *outbox.Message) (subject, text, html string, err error)
}

func templatesOperation() huma.Operation {
	op := listOperation("listTemplates", "/v1/templates", "Templates", "Which templates are there?", "In alphabetical order, with their languages.")
	op.Errors = append(op.Errors, http.StatusUnprocessableEntity)
	return op
}

func previewTemplateOperation() huma.Operation {
	op := withBody(lookOperation("previewTemplate", "/v1/templates/{name}/preview", "Templates", "What would a message say?",
		"Nothing is written, and nothing sent."))
	op.Method = http.MethodPost
	return op
}

func previewMessageOperation() huma.Operation {
	op := lookOperation("previewMessage", "/v1/messages/{id}/preview", "Messages", "What does a message say?",
		"As the templates are now. Links have TOKEN in the place of what makes them work, those among the application's values too, and so has what "+
			"looks like a token there; unless the message is of a test key, whose mail nobody gets.")
	op.Errors = append(op.Errors, http.StatusUnprocessableEntity)
	return op
}

type templatesOutput struct {
	Body struct {
		Templates []templateEntry `json:"templates" nullable:"false" doc:"In alphabetical order."`
	}
}

type templateEntry struct {
	Name    string   `json:"name" example:"invitation"`
	Locales []string `json:"locales" nullable:"false" example:"[\"de\",\"en\"]" doc:"The languages that it is there in (BCP 47)."`
}

type previewInput struct {
	Name string `path:"name" maxLength:"64" example:"invitation" doc:"The name of the template."`
	Body struct {
		Recipient string         `json:"recipient,omitempty" maxLength:"254" example:"ada@example.com" doc:"Whom the message is to. Default: ada@example.com."`
		Locale    string         `json:"locale,omitempty" maxLength:"35" example:"de-AT" doc:"The language (BCP 47). Default: en."`
		Data      map[string]any `json:"data,omitempty" doc:"Values for the template, under data."`

		GroupID     string    `json:"group_id,omitempty" maxLength:"255" example:"42" doc:"This and what follows are for the templates of invitations."`
		GroupName   string    `json:"group_name,omitempty" maxLength:"100" example:"Analytical Engine Club"`
		InviterID   string    `json:"inviter_id,omitempty" maxLength:"255" example:"7"`
		InviterName string    `json:"inviter_name,omitempty" maxLength:"100" example:"Charles"`
		Link        string    `json:"link,omitempty" maxLength:"2000" example:"https://example.com/join/42" doc:"Default: https://example.com/TOKEN."`
		ExpiresAt   time.Time `json:"expires_at,omitzero" example:"2030-02-07T09:00:00Z" doc:"Default: in seven days."`
	}
}

type previewOutput struct{ Body preview }

type preview struct {
	Subject string `json:"subject" example:"Charles invites you to Analytical Engine Club"`
	Text    string `json:"text" example:"Hello, …" doc:"The part that is plain text."`
	HTML    string `json:"html,omitempty" example:"<!doctype html>…" doc:"The part that is HTML, if there is one."`
}

func (s *server) listTemplates(context.Context, *struct{}) (*templatesOutput, error) {
	names := s.templates.Names()
	out := &templatesOutput{}
	out.Body.Templates = each(slices.Sorted(maps.Keys(names)), func(name string) templateEntry { return templateEntry{name, names[name]} })
	return out, nil
}

func (s *server) previewTemplate(_ context.Context, in *previewInput) (*previewOutput, error) {
	if _, known := s.templates.Names()[in.Name]; !known {
		return nil, newProblem(notFound).because("There is no template of this name. GET /v1/templates lists those that there are.")
	}
	m := &outbox.Message{Template: in.Name, Channel: "email", Recipient: in.Body.Recipient, Locale: in.Body.Locale, Data: map[string]any{"data": in.Body.Data}}
	if m.Recipient == "" {
		m.Recipient = "ada@example.com"
	}
	if strings.HasPrefix(in.Name, "invitation") {
		link, expires := in.Body.Link, in.Body.ExpiresAt
		if link == "" {
			link = "https://example.com/TOKEN"
		}
		if expires.IsZero() {
			expires = time.Now().Add(7 * 24 * time.Hour)
		}
		maps.Copy(m.Data, map[string]any{
			"group_id": in.Body.GroupID, "group_name": in.Body.GroupName, "email": m.Recipient, "inviter_id": in.Body.InviterID,
			"inviter_name": in.Body.InviterName, "link": link, "expires_at": expires.UTC().Format(time.RFC3339),
		})
	}
	return s.render(m)
}

func (s *server) previewMessage(ctx context.Context, in *idInput) (*previewOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	m, err := outbox.PreviewMessage(ctx, s.pool, in.ID, s.linkToLookAt)
	if err != nil {
		return nil, err
	}
	if !isTest(m.Tenant) {
		m.Data["data"] = toLookAt(m.Data["data"])
	}
	return s.render(m)
}

func isTest(tenant string) bool { return strings.HasSuffix(tenant, ":test") }

var (
	linkInText = regexp.MustCompile(`(?i)[a-z][a-z0-9+.-]*://[^\s<>"']+`)
	// tokenLike is one long word: a template may make a link of it.
	tokenLike = regexp.MustCompile(`^[A-Za-z0-9_.~+/=%-]{20,}$`)
)

// toLookAt is a value of the application with TOKEN for what may open something:
// many a message is sent for the sake of its link.
func toLookAt(value any) any {
	switch value := value.(type) {
	case map[string]any:
		shown := make(map[string]any, len(value))
		for name, member := range value {
			shown[name] = toLookAt(member)
		}
		return shown
	case []any:
		return each(value, toLookAt)
	case string:
		if tokenLike.MatchString(value) && strings.ContainsAny(value, "0123456789") {
			return "TOKEN"
		}
		return linkInText.ReplaceAllStringFunc(value, deadLink)
	default:
		return value
	}
}

// deadLink leaves of a link where it leads, which of an app's own is nothing.
func deadLink(link string) string {
	target, err := url.Parse(link)
	switch {
	case err != nil:
		return "TOKEN"
	case target.Scheme != "https" && target.Scheme != "http":
		return target.Scheme + "://TOKEN"
	case target.User == nil && strings.Trim(target.RequestURI()+target.Fragment, "/") == "":
		return link
	default:
		return target.Scheme + "://" + target.Host + "/TOKEN"
	}
}

// linkToLookAt is the link of an invitation with TOKEN in the place of what makes it
// work. Nobody is mailed the links of tests, so those are whole.
func (s *server) linkToLookAt(l outbox.PreviewLink) string {
	if isTest(l.Tenant) {
		made, _ := outbox.AcceptLink(s.acceptURL, s.secret, l.InvitationID, l.Generation)
		return cmp.Or(l.Passed, made)
	}
	if target, err := url.Parse(l.Passed); err == nil && target.Host != "" {
		return target.Scheme + "://" + target.Host + "/TOKEN"
	}
	return strings.ReplaceAll(s.acceptURL, "{token}", "TOKEN")
}

// missingValue finds in the error of a template the name of the value that it wants.
var missingValue = regexp.MustCompile(`no entry for key "([a-z_]{1,40})"`)

func (s *server) render(m *outbox.Message) (*previewOutput, error) {
	subject, text, html, err := s.templates.Render(m)
	if err != nil {
		said := "does not fit the template"
		if missing := missingValue.FindStringSubmatch(err.Error()); missing != nil {
			said = fmt.Sprintf("lacks %s, which the template wants", missing[1])
		}
		return nil, newInputProblem(inputError{"body.data", said})
	}
	return &previewOutput{preview{Subject: subject, Text: text, HTML: html}}, nil
}
