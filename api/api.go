// Package api is the HTTP door to the outbox: a JSON API described by OpenAPI
// 3.1, for web front ends and services that have no connection to the database.
//
//	POST /v1/groups/{group_id}/invitations         invite somebody: 202 and where to look
//	POST /v1/groups/{group_id}/invitations/batch   invite up to 1,000: 202 and a result for each
//	GET  /v1/invitations, /v1/invitations/{id}     what became of invitations
//	POST /v1/invitations/{id}/revoke, /resend, …   change one; /accept and /decline take a token, too
//	POST /v1/messages                              send a message of any template
//	GET  /v1/messages, /v1/messages/{id}           messages with their attempts; /preview shows one
//	POST /v1/messages/{id}/cancel, /retry          withdraw one, try a failed one again
//	POST /v1/messages/{id}/release, /mark-sent     decide about a held message
//	     /v1/suppressions, /v1/bounces             addresses not to write to, and news of them
//	     /v1/templates, /v1/events, /v1/webhooks   what is said, what has happened, and who is told
//	     /v1/keys                                  who may do what, for which tenant
//	     /join/{token}                             a page for the invited, if it is on
//	GET  /livez, /readyz                           for whoever watches the daemon
//	GET  /openapi.json, /docs                      the description, for programs and people
//
// # What it guarantees
//
// A 202 means that the invitation and its message are committed. The write goes
// on when the client goes away, and a client that got no answer repeats its
// request under the same Idempotency-Key: within a day it gets the first answer.
//
// Every error is a problem document (RFC 9457) with a stable type. No answer
// and no line of the log repeats what a client has sent: it may be an address,
// a link or a token.
//
// A key, mc_live_… or mc_test_…, lets its holder do what its scopes say, for one
// tenant: what belongs to another is not found. The operator sees all tenants:
// whoever sends the token of [Config] or, without one, a program on the same
// machine.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Config says what the API works on. Pool is required.
type Config struct {
	Pool   *pgxpool.Pool
	Token  string                      // the operator's bearer token; empty: the operator is this machine
	Ready  func(context.Context) error // asked by /readyz besides the database; nil: always ready
	Logger *slog.Logger                // default: discard

	// Templates are for looking at what messages say. Nil: the paths for it are not there.
	Templates Templates
	// AcceptURL and Secret are those of the relay: see [outbox.AcceptLink].
	AcceptURL string
	Secret    []byte

	// WebhookProblem says what is wrong with the URL of a webhook to be, if anything is.
	// Nil: what the database refuses.
	WebhookProblem func(url string) string

	// Join serves a page on which the invited accept or decline: see [JoinPath]. It
	// needs no authorization but the token in its address.
	Join bool
	// JoinNext is where the page leads who has accepted, with {id} for the id of the
	// invitation. Default: to itself, where it says so.
	JoinNext string

	Version string // of this program, for people; default "unknown"
}

// server is what the handlers share. Nothing in it changes after [New].
type server struct {
	pool     *pgxpool.Pool
	tokenSum []byte // nil without a token
	ready    func(context.Context) error
	logger   *slog.Logger

	itemRules rules               // of a batch
	providers map[string]provider // of bounces
	templates Templates
	acceptURL string
	secret    []byte

	webhookProblem func(url string) string
}

// sendableToken is what fits into an Authorization header field.
var sendableToken = regexp.MustCompile(`^[\x21-\x7e]+$`)

// New makes the handler of all routes. It fails if config could not work, and
// asks nothing of the database.
func New(config Config) (http.Handler, error) {
	if config.Pool == nil {
		return nil, errors.New("api: no database pool")
	}
	s := &server{
		pool: config.Pool, ready: config.Ready, logger: config.Logger,
		templates: config.Templates, acceptURL: config.AcceptURL, secret: config.Secret,
		webhookProblem: config.WebhookProblem,
	}
	if s.ready == nil {
		s.ready = func(context.Context) error { return nil }
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if config.Token != "" {
		if !sendableToken.MatchString(config.Token) {
			return nil, errors.New("api: the token holds characters that an HTTP header field cannot carry: use visible ASCII without blanks")
		}
		s.tokenSum = sum(config.Token)
	}

	var err error
	if s.providers, err = readProviders(providersDocument); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	if config.Join {
		if err := s.registerJoin(mux, config.JoinNext); err != nil {
			return nil, err
		}
	}
	description := s.register(mux, config.Version)
	document, err := json.Marshal(description)
	if err != nil {
		return nil, fmt.Errorf("api: describe: %w", err)
	}
	mux.HandleFunc("GET /openapi.json", serveDocument(document))
	return s.observe(explain(mux)), nil
}

// explain answers with a problem where mux would answer in plain text: for
// paths that do not exist, and for methods that a path does not have.
func explain(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		answer := &headerOnly{header: http.Header{}}
		handler.ServeHTTP(answer, r)
		switch answer.status {
		case http.StatusNotFound:
			writeProblem(w, r, newProblem(notFound).because("There is nothing at this path. /docs shows what there is."))
		case http.StatusMethodNotAllowed:
			allow := answer.header.Get("Allow")
			writeProblem(w, r, newProblem(wrongMethod, "Allow", allow).because("This path takes other methods: "+allow+"."))
		default:
			mux.ServeHTTP(w, r) // to the clean form of the path
		}
	})
}

// headerOnly finds out what a handler would answer.
type headerOnly struct {
	header http.Header
	status int
}

// Header, WriteHeader and Write make it a [http.ResponseWriter].
func (w *headerOnly) Header() http.Header { return w.header }

func (w *headerOnly) WriteHeader(status int) { w.status = status }

func (w *headerOnly) Write(p []byte) (int, error) { return len(p), nil }
