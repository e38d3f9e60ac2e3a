package api

import (
	"net/http"
	"reflect"
	"slices"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
)

// inviteOperation describes POST /v1/groups/{group_id}/invitations.
func inviteOperation() huma.Operation {
	return withBody(huma.Operation{
		OperationID: "invite",
		Method:      http.MethodPost,
		Path:        "/v1/groups/{group_id}/invitations",
		Tags:        []string{"Invitations"},
		Summary:     "Invite somebody to join a group",
		Description: "The answer means that the invitation and its mail are stored; the mail follows, usually at once. " +
			"A group has one pending invitation for an address at a time: asking again gives that one.",
		DefaultStatus:                http.StatusAccepted,
		RejectUnknownQueryParameters: true,
		RequestBody: &huma.RequestBody{Content: map[string]*huma.MediaType{"application/json": {Example: map[string]any{
			"email":        "ada@example.com",
			"group_name":   "Analytical Engine Club",
			"inviter_name": "Charles",
		}}}},
		Errors: []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, http.StatusServiceUnavailable},
	})
}

// batchOperation describes POST /v1/groups/{group_id}/invitations/batch.
func batchOperation(registry huma.Registry) huma.Operation {
	op := inviteOperation()
	op.OperationID, op.Path = "inviteBatch", op.Path+"/batch"
	op.Summary = "Invite up to 1,000 people to join a group"
	op.Description = "The answer has a result for each invitation, in the order of the request. An invitation that is refused keeps no other " +
		"from being written, unless atomic is asked for; 422 means that nothing was written. The body has at most 1 MiB. " +
		"Who got no answer may repeat the request: what is pending already is found, and not written again."
	op.Metadata = map[string]any{streamedBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {
		Schema: registry.Schema(reflect.TypeFor[batchBody](), true, ""),
		Example: map[string]any{"invitations": []map[string]any{
			{"email": "ada@example.com", "inviter_name": "Charles"},
			{"email": "grace@example.com", "locale": "en-US"},
		}},
	}}}}
	return op
}

// streamedBody is the description of a body that the operation reads itself. huma
// reads every body that it knows of before.
const streamedBody = "streamed body"

func readsBody(op *huma.Operation) bool { return op.Metadata[streamedBody] != nil }

func takesCSV(op *huma.Operation) bool {
	body, ok := op.Metadata[streamedBody].(*huma.RequestBody)
	return ok && body.Content["text/csv"] != nil
}

// describeBody adds the streamed body to what is published.
func describeBody(_ *huma.OpenAPI, op *huma.Operation) {
	if body, ok := op.Metadata[streamedBody].(*huma.RequestBody); ok {
		op.RequestBody = body
	}
}

// invitationOperation describes GET /v1/invitations/{id}.
func invitationOperation() huma.Operation {
	return lookOperation("getInvitation", "/v1/invitations/{id}", "Invitations", "What became of an invitation",
		"With its messages, when they were sent, by which relay and with which reply.")
}

// messageOperation describes GET /v1/messages/{id}.
func messageOperation() huma.Operation {
	return lookOperation("getMessage", "/v1/messages/{id}", "Messages", "What became of a message",
		"With every attempt to hand it to the next hop.")
}

// releaseOperation describes POST /v1/messages/{id}/release.
func releaseOperation() huma.Operation {
	op := changeOperation("releaseMessage", "/v1/messages/{id}/release", "Messages", "Send a held message again",
		"Its unknown outcomes so far count no longer. The recipient may get a second copy, under the same Message-ID.")
	op.DefaultStatus = http.StatusAccepted
	return op
}

// markSentOperation describes POST /v1/messages/{id}/mark-sent.
func markSentOperation() huma.Operation {
	return changeOperation("markMessageSent", "/v1/messages/{id}/mark-sent", "Messages", "Record that a held message did get through",
		"For a message whose last outcome is unknown, once somebody has found out. It is not sent again.")
}

func acceptOperation() huma.Operation {
	return tokenOperation("acceptByToken", "/v1/invitations/accept", "Accept the invitation that a token is for",
		"Of two requests at once, one succeeds. Where joining the group must not come apart from it, call mailcrane.accept in "+
			"the application's own transaction instead.")
}

func declineOperation() huma.Operation {
	return tokenOperation("declineByToken", "/v1/invitations/decline", "Decline the invitation that a token is for",
		"Mails about it that wait are withdrawn.")
}

func verifyOperation() huma.Operation {
	op := tokenOperation("verifyToken", "/v1/invitations/verify", "Which invitation is a token for?",
		"Changes nothing. Gives the invitation whatever its status.")
	op.Errors = slices.DeleteFunc(op.Errors, func(status int) bool { return status == http.StatusConflict })
	return op
}

func tokenOperation(id, path, summary, description string) huma.Operation {
	return changeOperation(id, path, "Invitations", summary, description+
		" Only tokens that were mailed are good, and only those of the latest mail that the invitation was sent or resent with.")
}

func acceptInvitationOperation() huma.Operation {
	return changeOperation("acceptInvitation", "/v1/invitations/{id}/accept", "Invitations", "Accept an invitation",
		"For an application that passed a link of its own.")
}

func declineInvitationOperation() huma.Operation {
	return changeOperation("declineInvitation", "/v1/invitations/{id}/decline", "Invitations", "Decline an invitation",
		"For an application that passed a link of its own.")
}

func revokeOperation() huma.Operation {
	return changeOperation("revokeInvitation", "/v1/invitations/{id}/revoke", "Invitations", "Take an invitation back",
		"Its links become invalid, and mails that wait are withdrawn. A second request gives an answer as well.")
}

func resendOperation() huma.Operation {
	op := changeOperation("resendInvitation", "/v1/invitations/{id}/resend", "Invitations", "Mail an invitation again",
		"With a new link; those mailed so far become invalid. How soon and how often is a matter of the policy.")
	op.DefaultStatus = http.StatusAccepted
	op.Errors = append(op.Errors, http.StatusTooManyRequests)
	return op
}

func changeAddressOperation() huma.Operation {
	op := resendOperation()
	op.OperationID, op.Path = "changeAddress", "/v1/invitations/{id}/change-address"
	op.Summary = "Mail an invitation to another address"
	op.Description = "With a new link; those mailed so far become invalid. It counts as mailing it again, and need not wait."
	return op
}

func cancelOperation() huma.Operation {
	op := changeOperation("cancelMessage", "/v1/messages/{id}/cancel", "Messages", "Withdraw a message",
		"One that a relay may have got is not repeated. A second request gives an answer as well.")
	op.Errors = slices.DeleteFunc(op.Errors, func(status int) bool { return status == http.StatusConflict })
	return op
}

func invitationsOperation() huma.Operation {
	return listOperation("listInvitations", "/v1/invitations", "Invitations", "Which invitations are there?",
		"Newest first, a page at a time, with their messages. What is written meanwhile does not shift the pages.")
}

func messagesOperation() huma.Operation {
	return listOperation("listMessages", "/v1/messages", "Messages", "Which messages are there?",
		"Newest first, a page at a time, with their attempts. What is written meanwhile does not shift the pages.")
}

func eventsOperation() huma.Operation {
	return listOperation("listEvents", "/v1/events", "Events", "What has happened since",
		"Oldest first. Whoever goes on with next misses no event and gets none twice, however many requests write at the same time. "+
			"An event appears as soon as no older transaction that writes is still running on the server.")
}

func listOperation(id, path, tag, summary, description string) huma.Operation {
	op := lookOperation(id, path, tag, summary, description)
	op.Errors = slices.DeleteFunc(op.Errors, func(status int) bool { return status == http.StatusNotFound })
	return op
}

func enqueueOperation() huma.Operation {
	op := listOperation("enqueueMessage", "/v1/messages", "Messages", "Send a message of any template",
		"For any mail but invitations. The answer means that it is stored; the mail follows, usually at once.")
	op.Method, op.DefaultStatus = http.MethodPost, http.StatusAccepted
	op.Errors = append(op.Errors, http.StatusTooManyRequests)
	return withBody(op)
}

func retryOperation() huma.Operation {
	op := changeOperation("retryMessage", "/v1/messages/{id}/retry", "Messages", "Try a failed message again",
		"It is queued for as long as a new one. Whether it may still be sent is looked at as always.")
	op.DefaultStatus = http.StatusAccepted
	return op
}

func attemptsOperation() huma.Operation {
	return lookOperation("listAttempts", "/v1/messages/{id}/attempts", "Messages", "What the relays said about a message",
		"All attempts, oldest first.")
}

func suppressionsOperation() huma.Operation {
	return listOperation("listSuppressions", "/v1/suppressions", "Suppressions", "Which addresses must not be written to?",
		"In alphabetical order, a page at a time.")
}

func suppressOperation() huma.Operation {
	op := listOperation("suppress", "/v1/suppressions", "Suppressions", "Keep an address from being written to",
		"From now on, also if messages to it wait already.")
	op.Method = http.MethodPost
	return withBody(op)
}

func unsuppressOperation() huma.Operation {
	op := lookOperation("unsuppress", "/v1/suppressions/{address}", "Suppressions", "Let an address be written to again",
		"Messages that were suppressed meanwhile stay so.")
	op.Method, op.DefaultStatus = http.MethodDelete, http.StatusNoContent
	return op
}

func importOperation() huma.Operation {
	op := suppressOperation()
	op.OperationID, op.Path = "importSuppressions", op.Path+"/import"
	op.Errors = append(op.Errors, http.StatusUnprocessableEntity)
	op.Summary = "Keep the addresses of a list from being written to"
	op.Description = "CSV (RFC 4180) whose first line names the columns: address and, if you like, reason and source. At most 1 MiB, " +
		"and 50,000 lines. All or none: 422 lists the first hundred lines that are wrong, counted from 0 after the first line."
	op.Metadata = map[string]any{streamedBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"text/csv": {
		Schema:  &huma.Schema{Type: huma.TypeString},
		Example: "address,reason\nada@example.com,asked us to stop\n",
	}}}}
	return op
}

// changeOperation describes a POST that needs no body. One that is sent all the same
// is read like any other.
func changeOperation(id, path, tag, summary, description string) huma.Operation {
	op := lookOperation(id, path, tag, summary, description)
	op.Method = http.MethodPost
	op.Errors = append(op.Errors, http.StatusConflict)
	return withBody(op)
}

// withBody adds what an operation with a small body can answer.
func withBody(op huma.Operation) huma.Operation { return withBodyOf(op, maxBody) }

// withBodyOf does the same for one with a body of at most so many bytes.
func withBodyOf(op huma.Operation, size int64) huma.Operation {
	op.MaxBodyBytes = size + 1 // huma takes the limit itself for too much
	op.BodyReadTimeout = -1    // no deadline any more: the body has been read
	op.Errors = append(op.Errors,
		http.StatusBadRequest, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	return op
}

func lookOperation(id, path, tag, summary, description string) huma.Operation {
	return huma.Operation{
		OperationID:                  id,
		Method:                       http.MethodGet,
		Path:                         path,
		Tags:                         []string{tag},
		Summary:                      summary,
		Description:                  description,
		RejectUnknownQueryParameters: true,
		Errors:                       []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusServiceUnavailable},
	}
}

// healthOperation describes GET /livez and /readyz.
func healthOperation(name, summary string, statuses ...int) huma.Operation {
	return huma.Operation{
		OperationID: name,
		Method:      http.MethodGet,
		Path:        "/" + name,
		Tags:        []string{"Health"},
		Summary:     summary,
		Security:    openToAll(),
		Errors:      append(statuses, http.StatusInternalServerError),
	}
}

// describeAnswers completes what huma says about the answers of op: the headers
// that all have, those of some errors, and an example that fits the status.
func describeAnswers(_ *huma.OpenAPI, op *huma.Operation) {
	kinds := map[int]kind{}
	for _, k := range []kind{
		malformedBody, unauthorized, localOnly, notFound, notPending, notHeld, slowBody, bodyTooLarge, wrongMediaType, invalidInput, limitReached, internalError, databaseTrouble,
	} {
		kinds[k.status] = k
	}
	if isOpen(op) {
		kinds[notReady.status] = notReady
	}
	for status, response := range op.Responses {
		if response.Headers == nil {
			response.Headers = map[string]*huma.Param{}
		}
		describeHeader(response, "X-Request-Id", "The id of this request, as sent or else made here.")
		if location := response.Headers["Location"]; location != nil {
			location.Required = true
		}
		code, _ := strconv.Atoi(status)
		switch code {
		case http.StatusUnauthorized:
			scheme := "Bearer (RFC 6750)."
			if takesPassword(op) {
				scheme = "Bearer (RFC 6750), and once more Basic (RFC 7617)."
			}
			describeHeader(response, "WWW-Authenticate", scheme)
		case http.StatusTooManyRequests:
			describeHeader(response, "Retry-After", "Seconds to wait before the next try. Missing if it will not be possible.")
			describeHeader(response, "RateLimit", "What is left, r, and for how many seconds that is so, t (draft-ietf-httpapi-ratelimit-headers).")
		case http.StatusServiceUnavailable:
			describeHeader(response, "Retry-After", "Seconds to wait before the next try.")
		}
		if content := response.Content["application/problem+json"]; content != nil {
			content.Example = exampleProblem(kinds[code])
		}
	}
}

func describeHeader(response *huma.Response, name, description string) {
	response.Headers[name] = &huma.Header{Description: description, Schema: &huma.Schema{Type: huma.TypeString}}
}

func exampleProblem(k kind) *problem {
	p := newProblem(k)
	if k == invalidInput {
		p = newInputProblem(inputError{"body.email", "is missing"})
	}
	p.RequestID = "PCVLZGQMTPYWKLQWJK7V4WTYXM"
	return p
}
