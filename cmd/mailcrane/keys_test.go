package main

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

func TestKeys_areMadeListedAndRevoked(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	mailcrane := func(args ...string) (string, error) {
		out := &bytes.Buffer{}
		err := run(t.Context(), append([]string{"keys"}, args...), []string{"DATABASE_URL=" + pool.Config().ConnString()}, out, io.Discard)
		return strings.TrimSpace(out.String()), err
	}
	key, err := mailcrane("create", "--name", "web front end", "--tenant", "acme", "--test", "--scopes", "invitations:write,messages:read", "--expires-in", "1h")
	if err != nil || !regexp.MustCompile(`^mc_test_[A-Za-z0-9_-]{43}$`).MatchString(key) {
		t.Fatal(key, err)
	}
	k, err := outbox.UseAPIKey(t.Context(), pool, key)
	if err != nil || k.Tenant != "acme:test" || !k.Allows("messages:read") || k.Allows("keys:write") || k.ExpiresAt == nil {
		t.Errorf("%+v, %v", k, err)
	}
	list, err := mailcrane("list", "--tenant", "acme")
	if err != nil || strings.Contains(list, key) {
		t.Error(list, err)
	}
	for _, want := range []string{k.ID, "acme:test", "web front end", key[:12] + "…", "until ", "invitations:write,messages:read"} {
		if !strings.Contains(list, want) {
			t.Errorf("no %q in\n%s", want, list)
		}
	}
	if other, err := mailcrane("list", "--tenant", "other"); err != nil || strings.Contains(other, k.ID) {
		t.Error(other, err)
	}
	if _, err := mailcrane("revoke", k.ID); err != nil {
		t.Error(err)
	}
	if list, err := mailcrane("list"); err != nil || !strings.Contains(list, "revoked ") {
		t.Error(list, err)
	}
	if _, err := outbox.UseAPIKey(t.Context(), pool, key); err == nil {
		t.Error("a revoked key is valid")
	}
	parent, _, err := outbox.CreateAPIKey(t.Context(), pool, outbox.NewAPIKey{Name: "parent"})
	if err != nil {
		t.Fatal(err)
	}
	_, child, err := outbox.CreateAPIKey(t.Context(), pool, outbox.NewAPIKey{Name: "child", ParentID: parent})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := mailcrane("list"); err != nil || strings.Count(list, parent) != 2 {
		t.Error(list, err)
	}
	if _, err := mailcrane("revoke", parent, "--with-children"); err != nil {
		t.Error(err)
	}
	if _, err := outbox.UseAPIKey(t.Context(), pool, child); err == nil {
		t.Error("the child of a key that was revoked with it is valid")
	}
	for _, wrong := range [][]string{
		{"create"}, {"create", "--name", "a", "--scopes", "everything"}, {"create", "--name", "a", "--expires-in", "-1h"},
		{"revoke", "x"}, {"revoke", "01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21"}, {"revoke"},
	} {
		if out, err := mailcrane(wrong...); err == nil {
			t.Errorf("%v: %s", wrong, out)
		}
	}
}
