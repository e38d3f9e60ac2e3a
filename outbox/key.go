package outbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// ErrInvalidKey means that a key does not exist, is over, or was revoked.
var ErrInvalidKey = errors.New("the key is not valid")

// APIKey is a key to the HTTP API, for one tenant. The key itself is known only to
// whom [CreateAPIKey] gave it.
type APIKey struct {
	ID         string     `json:"id"`
	Tenant     string     `json:"tenant"` // if it ends in ":test", nothing is mailed
	Name       string     `json:"name"`   // for people
	Prefix     string     `json:"prefix"` // how the key begins
	Scopes     []string   `json:"scopes"` // what it allows, such as "invitations:write"
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at"`   // nil: never
	LastUsedAt *time.Time `json:"last_used_at"` // to a minute; nil: never
	RevokedAt  *time.Time `json:"revoked_at"`   // nil: not
	ParentID   string     `json:"parent_id"`    // the key that made it; empty: the operator did
}

// Allows says whether the key has a scope.
func (k APIKey) Allows(scope string) bool { return slices.Contains(k.Scopes, scope) }

// NewAPIKey says what key [CreateAPIKey] makes. Name is required.
type NewAPIKey struct {
	Name      string    // at most two keys of a tenant with the same name are valid at a time
	Tenant    string    // default "default"
	Test      bool      // for the tenant whose mail is never sent: Tenant with ":test" behind it
	Scopes    []string  // default all but those on keys: see mailcrane.api_key_scopes()
	ExpiresAt time.Time // default: never
	ParentID  string    // the key that makes it; default: none
}

// CreateAPIKey makes a key, mc_live_… or mc_test_…, and gives its id and itself.
// Nobody can look it up afterwards: the database has its SHA-256. Bad input gives an
// [*InputError], a parent that does not exist or was revoked [ErrInvalidKey].
func CreateAPIKey(ctx context.Context, tx Tx, k NewAPIKey) (id, key string, err error) {
	for field, text := range map[string]string{"name": k.Name, "tenant": k.Tenant, "scopes": strings.Join(k.Scopes, "")} {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return "", "", &InputError{Problems: []Problem{{Field: field, Problem: "is not text in UTF-8"}}}
		}
	}
	if k.ParentID != "" && !isUUID(k.ParentID) {
		return "", "", fmt.Errorf("create key: %w", ErrInvalidKey)
	}
	made, err := query(ctx, tx, pgx.RowToStructByPos[struct{ ID, Key string }], `
		SELECT id::text, key
		FROM mailcrane.create_api_key($1::text, coalesce(nullif($2::text, ''), 'default'), $3::boolean, $4::text[], $5::timestamptz, nullif($6::text, '')::uuid)`,
		k.Name, k.Tenant, k.Test, k.Scopes, optionalTime(k.ExpiresAt), k.ParentID)
	if sqlState(err) == "P0002" {
		err = ErrInvalidKey
	}
	if err != nil {
		return "", "", fmt.Errorf("create key: %w", asInputError(err))
	}
	return made[0].ID, made[0].Key, nil
}

// RevokeAPIKey makes a key invalid, at once, or gives [ErrNotFound]. withChildren: and
// those that it made, and so on.
func RevokeAPIKey(ctx context.Context, tx Tx, id string, withChildren bool) error {
	if !isUUID(id) {
		return fmt.Errorf("revoke key: %w", ErrNotFound)
	}
	_, err := query(ctx, tx, pgx.RowTo[string], `SELECT mailcrane.revoke_api_key($1::text::uuid, $2)::text`, id, withChildren)
	if err != nil {
		return fmt.Errorf("revoke key %s: %w", id, asLifecycleError(err))
	}
	return nil
}

// APIKeyFilter says which keys [ListAPIKeys] gives.
type APIKeyFilter struct {
	Tenant string // with the one of its tests; default: all
	After  string // the ID of the last key of the page before
	Limit  int    // default 100, at most 1,000
}

// ListAPIKeys reads keys, newest first, a page at a time.
func ListAPIKeys(ctx context.Context, tx Tx, f APIKeyFilter) ([]APIKey, error) {
	keys, err := query(ctx, tx, scanDocument[APIKey], `
		SELECT (to_jsonb(k) - 'hash')::text
		FROM mailcrane.api_key AS k
		WHERE ($1::text = '' OR k.tenant IN ($1::text, $1::text || ':test'))
		  AND ($2::text = '' OR k.id < nullif($2::text, '')::uuid)
		ORDER BY k.id DESC
		LIMIT $3`, f.Tenant, f.After, pageSize(f.Limit))
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return keys, nil
}

// GetAPIKey reads the key with the given id, or gives [ErrNotFound].
func GetAPIKey(ctx context.Context, tx Tx, id string) (APIKey, error) {
	return get[APIKey](ctx, tx, "key", id, `
		SELECT (to_jsonb(k) - 'hash')::text
		FROM mailcrane.api_key AS k
		WHERE k.id = $1::text::uuid`)
}

// keyShape is what keys look like.
var keyShape = regexp.MustCompile(`^mc_(live|test)_[A-Za-z0-9_-]{43}$`)

// UseAPIKey gives what is known about a key, and notes that it was used, or gives
// [ErrInvalidKey].
func UseAPIKey(ctx context.Context, tx Tx, key string) (APIKey, error) {
	if !keyShape.MatchString(key) {
		return APIKey{}, ErrInvalidKey
	}
	hash := sha256.Sum256([]byte(key))
	keys, err := query(ctx, tx, scanDocument[APIKey], `
		SELECT (to_jsonb(k) - 'hash')::text
		FROM mailcrane.use_api_key($1) AS k`, hash[:])
	if err != nil {
		return APIKey{}, fmt.Errorf("look up key: %w", err)
	}
	if len(keys) == 0 {
		return APIKey{}, ErrInvalidKey
	}
	return keys[0], nil
}

// TenantOf gives the tenant that something belongs to, or [ErrNotFound]. kind is
// "invitations", "messages" or "keys".
func TenantOf(ctx context.Context, tx Tx, kind, id string) (string, error) {
	if !isUUID(id) {
		return "", ErrNotFound
	}
	tenants, err := query(ctx, tx, pgx.RowTo[*string], `SELECT mailcrane.tenant_of($1::text, $2::text::uuid)`, kind, id)
	if err != nil {
		return "", fmt.Errorf("tenant of %s %s: %w", kind, id, err)
	}
	if tenants[0] == nil {
		return "", ErrNotFound
	}
	return *tenants[0], nil
}

// isTest says whether the mail of a tenant is handed to nobody.
func isTest(tenant string) bool { return strings.HasSuffix(tenant, ":test") }
