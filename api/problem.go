package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mailcrane/mailcrane/outbox"
)

// problem is the body of every answer that is an error (RFC 9457).
type problem struct {
	Type      string       `json:"type" example:"/problems/invalid-input" doc:"What kind of problem this is. Stable: programs may branch on it."`
	Title     string       `json:"title" example:"Invalid input" doc:"The kind of problem in words. The same for every problem of this type."`
	Status    int          `json:"status" example:"422" doc:"The HTTP status."`
	Detail    string       `json:"detail" example:"Nothing was written. Correct what the errors list and send the request again." doc:"What happened, and what to do about it."`
	Errors    []inputError `json:"errors,omitempty" nullable:"false" doc:"Everything that is wrong with the input."`
	RequestID string       `json:"request_id" example:"PCVLZGQMTPYWKLQWJK7V4WTYXM" doc:"The X-Request-Id of this request, as in the log of the daemon."`

	headers http.Header
}

// inputError is one thing that is wrong with a request. It never repeats the
// value: addresses and links do not belong into the logs of whoever calls.
type inputError struct {
	Location string `json:"location" example:"body.email" doc:"Where it is: body, path, query or header, a dot, and the name."`
	Message  string `json:"message" example:"is missing" doc:"What is wrong there."`
}

// MarshalJSON adds where it is in the body as a JSON pointer (RFC 6901), written as
// RFC 9457 section 3 does.
func (e inputError) MarshalJSON() ([]byte, error) {
	written := struct {
		Location string `json:"location"`
		Pointer  string `json:"pointer,omitempty"`
		Message  string `json:"message"`
	}{e.Location, "", e.Message}
	if rest, inBody := strings.CutPrefix(e.Location, "body"); inBody && !strings.HasPrefix(rest, ".lines[") { // those of CSV
		written.Pointer = "#" + strings.NewReplacer(".", "/", "[", "/", "]", "").Replace(rest)
	}
	return json.Marshal(written)
}

// TransformSchema describes what MarshalJSON adds.
func (inputError) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	s.Properties["pointer"] = &huma.Schema{
		Type: huma.TypeString, Description: "Where it is in the body, as a JSON pointer. Missing if it is elsewhere, or the body is CSV.", Examples: []any{"#/email"},
	}
	return s
}

// Error, GetStatus, GetHeaders and ContentType are how huma asks what to write.
func (p *problem) Error() string { return p.Detail }

func (p *problem) GetStatus() int { return p.Status }

func (p *problem) GetHeaders() http.Header { return p.headers }

func (p *problem) ContentType(string) string { return "application/problem+json" }

// kind is a type of problem.
type kind struct {
	status int
	slug   string // stable: part of the interface
	title  string
	detail string // unless there is more to say
}

// The types of problem.
var (
	malformedBody = kind{http.StatusBadRequest, "malformed-body", "Malformed body",
		"The body is not a JSON document that can be read. Nothing was written."}
	unauthorized = kind{http.StatusUnauthorized, "unauthorized", "Unauthorized",
		"Send the API token: Authorization: Bearer …"}
	localOnly = kind{http.StatusForbidden, "local-only", "Local requests only",
		"Without an API token only this machine may ask, directly and under the name localhost or its loopback address. " +
			"Set MAILCRANE_API_TOKEN, and send it as Authorization: Bearer …"}
	crossOrigin = kind{http.StatusForbidden, "cross-origin", "Request from another web site",
		"A page of another web site must not do this. Set MAILCRANE_API_TOKEN, and call from a server."}
	insufficientScope = kind{http.StatusForbidden, "insufficient-scope", "Key does not allow this",
		"Use a key with the scope that the description of the operation names."}
	notFound = kind{http.StatusNotFound, "not-found", "Not found",
		"There is nothing with this id."}
	invalidToken = kind{http.StatusNotFound, "invalid-token", "Token is not valid",
		"It was never mailed, or a newer mail has replaced it. Nothing was written."}
	notPending = kind{http.StatusConflict, "not-pending", "Invitation is not pending",
		"The invitation is accepted, declined, revoked or expired. Nothing was written."}
	alreadyInvited = kind{http.StatusConflict, "already-invited", "Address is invited already",
		"There is a pending invitation of this address to the group. Nothing was written: revoke one of the two."}
	limitReached = kind{http.StatusTooManyRequests, "limit-reached", "Limit reached",
		"It is too soon to do this again, or it was done too often. Nothing was written."}
	notHeld = kind{http.StatusConflict, "not-held", "Message is not held",
		"Only a held message waits for a decision, and only one with an unknown outcome can be marked as sent. Nothing was written."}
	notFailed = kind{http.StatusConflict, "not-failed", "Message cannot be retried",
		"Only a failed message can be retried, unless a newer mail has replaced it or its data are gone. Nothing was written."}
	wrongMethod = kind{http.StatusMethodNotAllowed, "method-not-allowed", "Method not allowed",
		"This path takes other methods."}
	slowBody = kind{http.StatusRequestTimeout, "slow-body", "Body took too long",
		fmt.Sprintf("The body did not arrive within %s, or %s where it may be large. Nothing was written.", bodyTimeout, largeBodyTimeout)}
	bodyTooLarge = kind{http.StatusRequestEntityTooLarge, "body-too-large", "Body too large",
		"The body is larger than it may be. Nothing was written."}
	wrongMediaType = kind{http.StatusUnsupportedMediaType, "unsupported-media-type", "Unsupported media type",
		"Send JSON and say so: curl --json '{…}' does, or -H 'Content-Type: application/json' -d '{…}'."}
	invalidInput = kind{http.StatusUnprocessableEntity, "invalid-input", "Invalid input",
		"Nothing was written. Correct what the errors list and send the request again."}
	internalError = kind{http.StatusInternalServerError, "internal-error", "Internal error",
		"Something went wrong here. The log of the daemon says more under this request_id."}
	databaseTrouble = kind{http.StatusServiceUnavailable, "database-unavailable", "Database unavailable",
		"The database did not answer, and it is not known whether anything was written. " +
			"Repeat the request, with the same Idempotency-Key if it had one."}
	notReady = kind{http.StatusServiceUnavailable, "not-ready", "Not ready",
		"The daemon is not ready to send."}
)

// newProblem makes a problem of kind k with pairs of header fields.
func newProblem(k kind, headers ...string) *problem {
	p := &problem{Type: "/problems/" + k.slug, Title: k.title, Status: k.status, Detail: k.detail, headers: http.Header{}}
	for i := 0; i+1 < len(headers); i += 2 {
		p.headers.Set(headers[i], headers[i+1])
	}
	return p
}

// because replaces the detail of p.
func (p *problem) because(detail string) *problem {
	p.Detail = detail
	return p
}

func newInputProblem(errs ...inputError) *problem {
	p := newProblem(invalidInput)
	p.Errors = errs
	return p
}

const unstorableValue = "holds a value that the database cannot store, such as the character U+0000 or a number out of range"

// toProblem turns what a handler returned into the problem to answer with. It
// is the only place that decides what an error means in HTTP.
func toProblem(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if input, ok := errors.AsType[*outbox.InputError](err); ok {
		return fromInputError(input)
	}
	if status, ok := errors.AsType[*outbox.StatusError](err); ok {
		return newProblem(notPending).because(fmt.Sprintf("The invitation is %s. Nothing was written.", status.Status))
	}
	if limit, ok := errors.AsType[*outbox.LimitError](err); ok {
		return fromLimitError(limit)
	}
	switch {
	case errors.Is(err, outbox.ErrInvalidToken):
		return newProblem(invalidToken)
	case errors.Is(err, outbox.ErrAlreadyInvited):
		return newProblem(alreadyInvited)
	case errors.Is(err, outbox.ErrNotFound):
		return newProblem(notFound)
	case errors.Is(err, outbox.ErrNotFailed):
		return newProblem(notFailed)
	case errors.Is(err, outbox.ErrNotHeld):
		return newProblem(notHeld)
	case unstorable(err):
		return newInputProblem(inputError{"body", unstorableValue})
	case unavailable(err):
		return newProblem(databaseTrouble, "Retry-After", "5")
	default:
		return newProblem(internalError)
	}
}

func fromLimitError(limit *outbox.LimitError) *problem {
	if limit.RetryAfter == 0 {
		return newProblem(limitReached).because("This was done as often as the policy allows. Nothing was written.")
	}
	wait := strconv.Itoa(int(limit.RetryAfter.Seconds()))
	return newProblem(limitReached, "Retry-After", wait, "RateLimit", `"mailcrane";r=0;t=`+wait).
		because("It is too soon to do this again. Nothing was written: repeat the request after Retry-After seconds.")
}

// fromInputError says where in the request each problem of the database's
// refusal is.
func fromInputError(input *outbox.InputError) *problem {
	p := newInputProblem()
	for _, found := range input.Problems {
		location := "body." + found.Field
		switch found.Field {
		case "group_id":
			location = "path.group_id"
		case "idempotency_key":
			location = "header.Idempotency-Key"
		case "after":
			location = "query.after"
		case "input", "invitations":
			location = "body"
		}
		p.Errors = append(p.Errors, inputError{location, found.Problem})
	}
	return p
}

// inBody is fromInputError for an operation all of whose fields are in its body.
func inBody(input *outbox.InputError) *problem {
	p := newInputProblem()
	for _, found := range input.Problems {
		p.Errors = append(p.Errors, inputError{"body." + found.Field, found.Problem})
	}
	return p
}

// fromHuma rewrites huma's own errors, which repeat the offending value, as
// problems that do not.
//
// It runs as a transformer of one API. Replacing huma.NewError would do the
// same for the whole process, and so for other code that uses huma.
func fromHuma(registry huma.Registry) huma.Transformer {
	return func(ctx huma.Context, _ string, v any) (any, error) {
		status, isError := v.(huma.StatusError)
		if !isError {
			return v, nil
		}
		p, ours := v.(*problem)
		if !ours {
			p = translate(status, rules{registry, bodyOf(ctx.Operation())})
		}
		p.RequestID = requestID(ctx.Context())
		return p, nil
	}
}

// bodyOf is what a body must be like, or nil.
func bodyOf(op *huma.Operation) *huma.Schema {
	if op == nil || op.RequestBody == nil || op.RequestBody.Content["application/json"] == nil {
		return nil
	}
	return op.RequestBody.Content["application/json"].Schema
}

func translate(status huma.StatusError, body rules) *problem {
	var p *problem
	switch status.GetStatus() {
	case http.StatusBadRequest:
		p = newProblem(malformedBody)
	case http.StatusUnprocessableEntity:
		p = newInputProblem()
	default:
		p = newProblem(internalError)
		p.Status = status.GetStatus()
		return p // its errors are ours, and none of the client's business
	}
	model, ok := status.(*huma.ErrorModel)
	if !ok {
		return p
	}
	for _, found := range model.Errors {
		p.Errors = append(p.Errors, body.detail(found))
	}
	return p
}

// rules are what a document is checked against.
type rules struct {
	registry huma.Registry
	schema   *huma.Schema // nil: nothing is known of it
}

var (
	// step is a name or an index in what huma says about where something is.
	step = regexp.MustCompile(`\.[^.\[]*|\[[0-9]+\]`)
	// plainName is one that is hardly a value.
	plainName = regexp.MustCompile(`^\.[A-Za-z_-]{1,40}$`)
)

// detail is what huma has found, without the value, and as near to the place as can be
// said in names of fields. Another name came from the client, who may have mixed up
// names and values: only a plain one is repeated, and only where it ends.
func (r rules) detail(found *huma.ErrorDetail) inputError {
	end := strings.IndexAny(found.Location+".", ".[")
	location, rest := found.Location[:end], found.Location[end:]
	known := map[string]*huma.Schema{"body": r.schema, "path": nil, "query": nil, "header": nil}
	at, isPlace := known[location]
	if !isPlace {
		return inputError{"body", found.Message}
	}
	for rest != "" {
		next := step.FindString(rest)
		if next == "" || !strings.HasPrefix(rest, next) {
			break
		}
		rest = rest[len(next):]
		if at = r.below(at, next); at == nil && (rest != "" || !plainName.MatchString(next)) {
			break
		}
		location += next
	}
	return inputError{location, found.Message}
}

// below is the schema of a member of what has the schema s, or nil.
func (r rules) below(s *huma.Schema, next string) *huma.Schema {
	for s != nil && s.Ref != "" {
		s = r.registry.SchemaFromRef(s.Ref)
	}
	switch {
	case s == nil:
		return nil
	case next[0] == '[':
		return s.Items
	default:
		return s.Properties[next[1:]]
	}
}

// writeProblem answers with p where huma is not involved.
func writeProblem(w http.ResponseWriter, r *http.Request, p *problem) {
	p.RequestID = requestID(r.Context())
	for name, values := range p.headers {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = writeJSON(w, p) // the client is gone, and nobody is left to tell
}

func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}
