package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mailcrane/mailcrane/outbox"
)

// caller is who sends a request. The zero value is the operator, who sees all
// tenants and writes for the default one.
type caller struct {
	tenant  string // sees nothing else
	scopes  []string
	expires *time.Time // nil: never
	key     string     // the id of its key
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// may says whether the caller has a scope.
func (c caller) may(scope string) bool { return c.tenant == "" || slices.Contains(c.scopes, scope) }

// tenantOf is the tenant whose rows a request is about. It is empty for the
// operator, which the functions of package outbox take for all of them when they
// read, and for the default one when they write.
func tenantOf(ctx context.Context) string { return callerOf(ctx).tenant }

// checkKey wants a valid key with the scope of op.
func (s *server) checkKey(op *huma.Operation, r *http.Request, key string) (caller, *problem) {
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	k, err := outbox.UseAPIKey(ctx, s.pool, key)
	if errors.Is(err, outbox.ErrInvalidKey) {
		return caller{}, wrongToken()
	}
	if err != nil {
		return caller{}, s.problemOf(r.Context(), err)
	}
	if scope := scopeOf(op); !k.Allows(scope) {
		return caller{}, newProblem(insufficientScope, "WWW-Authenticate", `Bearer realm="mailcrane", error="insufficient_scope", scope="`+scope+`"`).
			because("This needs a key with the scope " + scope + ".")
	}
	return caller{tenant: k.Tenant, scopes: k.Scopes, expires: k.ExpiresAt, key: k.ID}, nil
}

// checkOwner keeps a caller from what belongs to another tenant: it is not found, as
// if it were not there. What the id in a path is one of, its beginning says. Nothing
// ever changes its tenant.
func (s *server) checkOwner(ctx context.Context, asking caller, op *huma.Operation, id string) *problem {
	if asking.tenant == "" || id == "" {
		return nil
	}
	kind, _, _ := strings.Cut(strings.TrimPrefix(op.Path, "/v1/"), "/")
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	owner, err := outbox.TenantOf(ctx, s.pool, kind, id)
	if err != nil {
		return s.problemOf(ctx, err)
	}
	if owner != asking.tenant && (kind != "keys" || owner != asking.tenant+":test") {
		return newProblem(notFound)
	}
	return nil
}

// checkToken keeps a caller from using a token of another tenant's invitation.
func (s *server) checkToken(ctx context.Context, token string) error {
	if tenantOf(ctx) == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	record, err := outbox.Verify(ctx, s.db(ctx), token)
	if err == nil && record.Tenant != tenantOf(ctx) {
		return outbox.ErrInvalidToken
	}
	return err
}

// describeScope says what a key must allow for op: what its tag is about, to be
// read or written.
func describeScope(_ *huma.OpenAPI, op *huma.Operation) {
	if op.Security != nil {
		return
	}
	access := ":write"
	if op.Method == http.MethodGet || op.OperationID == "verifyToken" || op.OperationID == "previewTemplate" {
		access = ":read"
	}
	op.Security = []map[string][]string{{"token": {strings.ToLower(op.Tags[0]) + access}}}
}

func scopeOf(op *huma.Operation) string { return op.Security[0]["token"][0] }
