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

func createKeyOperation() huma.Operation {
	op := listOperation("createKey", "/v1/keys", "Keys", "Make a key",
		"The answer is the only one that has it. A name can have two valid keys at a time, so that a new one can take the place of the old one. "+
			"A key cannot make one that may do more than itself, nor one that is valid for longer, nor one for another tenant.")
	op.Method, op.DefaultStatus = http.MethodPost, http.StatusCreated
	op.Metadata = map[string]any{secretAnswer: true}
	return withBody(op)
}

func keysOperation() huma.Operation {
	return listOperation("listKeys", "/v1/keys", "Keys", "Which keys are there?",
		"Newest first, a page at a time, with those that are not valid any more. Of a key itself, the answer has the first letters.")
}

func keyOperation() huma.Operation {
	return lookOperation("getKey", "/v1/keys/{id}", "Keys", "What may a key do?", "Of the key itself, the answer has the first letters.")
}

func revokeKeyOperation() huma.Operation {
	return changeOperation("revokeKey", "/v1/keys/{id}/revoke", "Keys", "Make a key invalid",
		"At once. A second time changes nothing. Keys that it has made stay valid, unless with_children is asked for: that is for a key which somebody has found.")
}

type createKeyInput struct {
	Body struct {
		Name      string    `json:"name" example:"web front end" doc:"For people. At most 100 characters."`
		Tenant    string    `json:"tenant,omitempty" example:"default" doc:"Whose rows the key can see and write. Default: the caller's. Only the operator can name another."`
		Test      bool      `json:"test,omitempty" doc:"Make a key mc_test_…, whose mail is handed to no relay. What it writes is a tenant of its own."`
		Scopes    []string  `json:"scopes,omitempty" nullable:"false" maxItems:"100" example:"[\"invitations:read\",\"invitations:write\"]" doc:"What it allows: invitations, messages, suppressions, webhooks or keys with :read or :write, bounces:write, templates:read, events:read. Default: all but those on keys, as far as the caller's go."`
		ExpiresAt time.Time `json:"expires_at,omitzero" example:"2035-01-31T09:00:00Z" doc:"When it becomes invalid (RFC 3339). Default: when the caller's key does, or never."`
	}
}

type createKeyOutput struct {
	Location string `header:"Location" example:"/v1/keys/01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21" doc:"Where to see what the key may do."`
	Body     newKey
}

type newKey struct {
	ID  string `json:"id" format:"uuid" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21"`
	Key string `json:"key" example:"mc_live_…" doc:"The key. Nobody can look it up afterwards."`
}

type keysInput struct{ Page }

type keysOutput struct {
	Body struct {
		Keys []key  `json:"keys" nullable:"false" doc:"Newest first."`
		Next string `json:"next,omitempty" example:"MDE5ODBhM2MtNTJhNC03YzNlLTlkMWYtNmEwZjZjOWE3YjIx" doc:"For after of the next request. Missing: that is all."`
	}
}

type keyOutput struct{ Body key }

// key is an [outbox.APIKey].
type key struct {
	ID         string    `json:"id" format:"uuid" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21"`
	Tenant     string    `json:"tenant" example:"default" doc:"Whose rows it can see and write. If it ends in :test, nothing is mailed."`
	Name       string    `json:"name" example:"web front end"`
	Prefix     string    `json:"prefix" example:"mc_live_AbCd" doc:"How the key begins."`
	Scopes     []string  `json:"scopes" nullable:"false" example:"[\"invitations:read\",\"invitations:write\"]" doc:"What it allows."`
	CreatedAt  time.Time `json:"created_at" example:"2030-01-31T09:00:00.123456Z"`
	ExpiresAt  time.Time `json:"expires_at,omitzero" example:"2035-01-31T09:00:00Z" doc:"When it becomes invalid. Missing: never."`
	LastUsedAt time.Time `json:"last_used_at,omitzero" example:"2030-02-01T10:00:00.123456Z" doc:"To a minute. Missing: never."`
	ParentID   string    `json:"parent_id,omitempty" format:"uuid" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b22" doc:"The key that made it. Missing: the operator did."`
	RevokedAt  time.Time `json:"revoked_at,omitzero" example:"2030-03-01T10:00:00.123456Z" doc:"When it was made invalid. Missing: it was not."`
}

func (s *server) createKey(ctx context.Context, in *createKeyInput) (*createKeyOutput, error) {
	wanted := outbox.NewAPIKey{
		Name: in.Body.Name, Tenant: in.Body.Tenant, Test: in.Body.Test, Scopes: in.Body.Scopes, ExpiresAt: in.Body.ExpiresAt,
	}
	if asking := callerOf(ctx); asking.tenant != "" {
		wanted.ParentID = asking.key
		if p := restrict(&wanted, asking); p != nil {
			return nil, p
		}
	}
	out := &createKeyOutput{}
	_, err := commit(ctx, s.pool, func(ctx context.Context, tx outbox.Tx) (_ struct{}, err error) {
		out.Body.ID, out.Body.Key, err = outbox.CreateAPIKey(ctx, tx, wanted)
		return struct{}{}, err
	})
	if errors.Is(err, outbox.ErrInvalidKey) { // revoked at the same moment
		return nil, wrongToken()
	}
	if err != nil {
		return nil, err
	}
	out.Location = "/v1/keys/" + out.Body.ID
	return out, nil
}

// restrict keeps a key from making one that can do what itself cannot, or for longer:
// whoever has found it could go on for ever.
func restrict(wanted *outbox.NewAPIKey, asking caller) *problem {
	if wanted.Tenant != "" && wanted.Tenant != asking.tenant {
		return newInputProblem(inputError{"body.tenant", "is not the caller's"})
	}
	wanted.Tenant = asking.tenant
	if wanted.Scopes == nil {
		wanted.Scopes = slices.DeleteFunc(slices.Clone(asking.scopes), func(scope string) bool { return strings.HasPrefix(scope, "keys:") })
	}
	for _, scope := range wanted.Scopes {
		if !slices.Contains(asking.scopes, scope) {
			return newInputProblem(inputError{"body.scopes", "has a scope that the caller's key has not"})
		}
	}
	if asking.expires != nil && wanted.ExpiresAt.IsZero() {
		wanted.ExpiresAt = *asking.expires
	}
	if asking.expires != nil && wanted.ExpiresAt.After(*asking.expires) {
		return newInputProblem(inputError{"body.expires_at", "is later than that of the caller's key"})
	}
	return nil
}

func (s *server) listKeys(ctx context.Context, in *keysInput) (*keysOutput, error) {
	last, err := in.last()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	keys, err := outbox.ListAPIKeys(ctx, s.pool, outbox.APIKeyFilter{Tenant: tenantOf(ctx), After: last, Limit: in.Limit + 1})
	if err != nil {
		return nil, err
	}
	out := &keysOutput{}
	keys, out.Body.Next = cut(keys, in.Limit, func(k outbox.APIKey) string { return k.ID })
	out.Body.Keys = each(keys, newAPIKey)
	return out, nil
}

func (s *server) getKey(ctx context.Context, in *idInput) (*keyOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	k, err := outbox.GetAPIKey(ctx, s.pool, in.ID)
	if err != nil {
		return nil, err
	}
	return &keyOutput{Body: newAPIKey(k)}, nil
}

type revokeKeyInput struct {
	ID           string `path:"id" maxLength:"64" example:"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21" doc:"The id of the key."`
	WithChildren bool   `query:"with_children" doc:"Make the keys invalid as well that it has made, and those that they have."`
}

func (s *server) revokeKey(ctx context.Context, in *revokeKeyInput) (*keyOutput, error) {
	k, err := commit(ctx, s.pool, func(ctx context.Context, tx outbox.Tx) (outbox.APIKey, error) {
		if err := outbox.RevokeAPIKey(ctx, tx, in.ID, in.WithChildren); err != nil {
			return outbox.APIKey{}, err
		}
		return outbox.GetAPIKey(ctx, tx, in.ID)
	})
	if err != nil {
		return nil, err
	}
	return &keyOutput{Body: newAPIKey(k)}, nil
}

func newAPIKey(k outbox.APIKey) key {
	return key{
		ID: k.ID, Tenant: k.Tenant, Name: k.Name, Prefix: k.Prefix, Scopes: k.Scopes,
		CreatedAt: k.CreatedAt.UTC(), ExpiresAt: utc(k.ExpiresAt), LastUsedAt: utc(k.LastUsedAt), RevokedAt: utc(k.RevokedAt), ParentID: k.ParentID,
	}
}
