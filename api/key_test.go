package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// key makes a key to s, as the operator.
func (s *service) key(wanted outbox.NewAPIKey) string {
	s.t.Helper()
	if wanted.Name == "" {
		wanted.Name = "test"
	}
	_, key, err := outbox.CreateAPIKey(s.t.Context(), s.pool, wanted)
	if err != nil {
		s.t.Fatal(err)
	}
	return key
}

// value is what a query of one text gives.
func (s *service) value(query string) (value string) {
	s.t.Helper()
	if err := s.pool.QueryRow(s.t.Context(), query).Scan(&value); err != nil {
		s.t.Fatal(err)
	}
	return value
}

func bearer(key string) []string { return []string{"Authorization", "Bearer " + key} }

func operator() []string { return bearer(token) }

func TestKeys_areMadeUsedAndRevoked(t *testing.T) {
	t.Parallel()
	s := start(t, withToken)
	const path = "/v1/keys"
	d := s.description()
	made := s.request(http.MethodPost, path, `{"name":"web","tenant":"acme"}`, operator()...).want(http.StatusCreated)
	d.declared(made, path)
	key, _ := made.document()["key"].(string)
	id, _ := made.document()["id"].(string)
	if !strings.HasPrefix(key, "mc_live_") || len(key) != len("mc_live_")+43 {
		t.Errorf("key is %s", made.body)
	}
	if strings.Contains(s.value(`SELECT string_agg(k::text, '') FROM mailcrane.api_key AS k`), key[12:]) {
		t.Error("the database has the key")
	}
	location := s.invite(ada, bearer(key)...).want(http.StatusAccepted).Header.Get("Location")
	if tenant := s.value(`SELECT tenant FROM mailcrane.invitation`); tenant != "acme" {
		t.Errorf("invitation is of %s", tenant)
	}
	s.get(location, bearer(key)...).want(http.StatusOK)

	list := s.get(path, operator()...).want(http.StatusOK)
	d.declared(list, path)
	row := first(t, list.document(), "keys")
	if row["prefix"] != key[:12] || row["name"] != "web" || row["tenant"] != "acme" || row["last_used_at"] == nil || strings.Contains(string(list.body), key) {
		t.Errorf("%s", list.body)
	}
	s.request(http.MethodPost, path+"/"+id+"/revoke", "", "Authorization", "Bearer wrong").problem(http.StatusUnauthorized, "unauthorized")
	for range 2 {
		revoked := s.request(http.MethodPost, path+"/"+id+"/revoke", "", operator()...).want(http.StatusOK)
		d.declared(revoked, path+"/{id}/revoke")
	}
	s.get(location, bearer(key)...).problem(http.StatusUnauthorized, "unauthorized")
	s.silent(made)
	if strings.Contains(s.logs.String(), key) {
		t.Error("the log has the key")
	}
}

func TestKeys_badInput(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for body, location := range map[string]string{
		`{}`:                                   "body",
		`{"name":""}`:                          "body.name",
		`{"name":" "}`:                         "body.name",
		`{"name":"https://x.example"}`:         "body.name",
		`{"name":"a\u0000"}`:                   "body.name",
		`{"name":"a","tenant":"*"}`:            "body.tenant",
		`{"name":"a","scopes":[]}`:             "body.scopes",
		`{"name":"a","scopes":["everything"]}`: "body.scopes",
		`{"name":"a","scopes":["a\u0000"]}`:    "body.scopes",
		`{"name":"a","expires_at":"2001-01-01T00:00:00Z"}`: "body.expires_at",
	} {
		a := s.request(http.MethodPost, "/v1/keys", body)
		s.description().declared(a, "/v1/keys")
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
		a.errorAt(location)
	}
	for _, want := range []int{http.StatusCreated, http.StatusCreated, http.StatusUnprocessableEntity} {
		s.request(http.MethodPost, "/v1/keys", `{"name":"a"}`).want(want)
	}
	s.request(http.MethodPost, "/v1/keys", `{"name":"a","test":true}`).want(http.StatusCreated)
}

func TestKeys_areValidForATime(t *testing.T) {
	t.Parallel()
	s := start(t, withToken)
	key := s.key(outbox.NewAPIKey{ExpiresAt: time.Now().Add(time.Hour)})
	s.get("/v1/messages", bearer(key)...).want(http.StatusOK)
	if _, err := s.pool.Exec(t.Context(), `UPDATE mailcrane.api_key SET expires_at = now()`); err != nil {
		t.Fatal(err)
	}
	s.get("/v1/messages", bearer(key)...).problem(http.StatusUnauthorized, "unauthorized")
	for _, wrong := range []string{"mc_live_", "mc_live_" + strings.Repeat("A", 43), key[:20], key + "A", strings.ToUpper(key)} {
		s.get("/v1/messages", bearer(wrong)...).problem(http.StatusUnauthorized, "unauthorized")
	}
}

// A key works from anywhere; without one, and without a token of the operator, only
// this machine may ask.
func TestKeys_letOthersThanThisMachineIn(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.get("/v1/messages", "Host", "mail.example.com").problem(http.StatusForbidden, "local-only")
	s.get("/v1/messages", append(bearer(s.key(outbox.NewAPIKey{})), "Host", "mail.example.com")...).want(http.StatusOK)
	s.get("/v1/messages", append(bearer("mc_live_"+strings.Repeat("A", 43)), "Host", "localhost")...).problem(http.StatusUnauthorized, "unauthorized")
}

func TestKeys_allowWhatTheirScopesSay(t *testing.T) {
	t.Parallel()
	s := start(t, withToken)
	d := s.description()
	all := strings.Split(s.value(`SELECT array_to_string(mailcrane.api_key_scopes(), ' ')`), " ")
	for path, operations := range d.Paths {
		for method, op := range operations {
			if !strings.HasPrefix(path, "/v1/") {
				continue
			}
			scope := op.Security[0]["token"][0]
			if !slices.Contains(all, scope) {
				t.Errorf("%s %s: no key can have the scope %s", method, path, scope)
				continue
			}
			others := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == scope })
			without := s.key(outbox.NewAPIKey{Name: "not " + scope + " " + op.OperationID, Scopes: others})
			with := s.key(outbox.NewAPIKey{Name: scope + " " + op.OperationID, Scopes: []string{scope}})
			at := strings.NewReplacer("{", "", "}", "").Replace(path)
			a := s.request(strings.ToUpper(method), at, "{}", bearer(without)...)
			d.declared(a, path)
			a.problem(http.StatusForbidden, "insufficient-scope")
			if a := s.request(strings.ToUpper(method), at, "{}", bearer(with)...); a.StatusCode == http.StatusForbidden || a.StatusCode == http.StatusUnauthorized {
				t.Errorf("%s %s with %s: %s", method, path, scope, a.body)
			}
		}
	}
}

func TestKeys_makeNoneThatMayDoMore(t *testing.T) {
	t.Parallel()
	s := start(t, withToken)
	key := s.key(outbox.NewAPIKey{Tenant: "acme", Scopes: []string{"keys:write", "messages:read"}})
	post := func(body string) *answer { return s.request(http.MethodPost, "/v1/keys", body, bearer(key)...) }
	for body, location := range map[string]string{
		`{"name":"a","scopes":["invitations:write"]}`: "body.scopes",
		`{"name":"a","tenant":"other"}`:               "body.tenant",
	} {
		post(body).problem(http.StatusUnprocessableEntity, "invalid-input")
		post(body).errorAt(location)
	}
	post(`{"name":"a"}`).want(http.StatusCreated)
	post(`{"name":"a","test":true}`).want(http.StatusCreated)
	if got := s.value(`SELECT string_agg(tenant || ' ' || array_to_string(scopes, ','), '; ' ORDER BY tenant) FROM mailcrane.api_key WHERE name = 'a'`); got != "acme messages:read; acme:test messages:read" {
		t.Errorf("keys are %s", got)
	}
}

// Whoever has found a key may have made others, and others with those.
func TestKeys_areRevokedWithTheirChildren(t *testing.T) {
	t.Parallel()
	s := start(t, withToken)
	d := s.description()
	const revoke = "/v1/keys/{id}/revoke"
	scopes := []string{"keys:write", "keys:read", "messages:read"}
	create := func(with, body string) (id, key string) {
		t.Helper()
		made := s.request(http.MethodPost, "/v1/keys", body, bearer(with)...).want(http.StatusCreated).document()
		return fmt.Sprint(made["id"]), fmt.Sprint(made["key"])
	}
	const child = `{"name":"child","scopes":["keys:write","keys:read","messages:read"]}`
	found := s.key(outbox.NewAPIKey{Name: "found", Scopes: scopes})
	foundID := s.value(`SELECT id::text FROM mailcrane.api_key WHERE name = 'found'`)
	childID, childKey := create(found, child)
	_, grandchild := create(childKey, `{"name":"grandchild","test":true}`)
	other := s.key(outbox.NewAPIKey{Name: "other", Scopes: scopes})
	_, cousin := create(other, `{"name":"cousin"}`)

	a := s.get("/v1/keys/"+childID, operator()...).want(http.StatusOK)
	d.declared(a, "/v1/keys/{id}")
	if parent := a.document()["parent_id"]; parent != foundID {
		t.Errorf("the parent is %v", parent)
	}
	if parent := s.get("/v1/keys/"+foundID, operator()...).document()["parent_id"]; parent != nil {
		t.Errorf("the operator's key has the parent %v", parent)
	}
	valid := func(want int, keys ...string) {
		t.Helper()
		for _, key := range keys {
			s.get("/v1/messages", bearer(key)...).want(want)
		}
	}
	s.request(http.MethodPost, "/v1/keys/"+foundID+"/revoke", "", operator()...).want(http.StatusOK)
	valid(http.StatusUnauthorized, found)
	valid(http.StatusOK, childKey, grandchild)
	a = s.request(http.MethodPost, "/v1/keys/"+foundID+"/revoke?with_children=true", "", operator()...).want(http.StatusOK)
	d.declared(a, revoke)
	valid(http.StatusUnauthorized, found, childKey, grandchild)
	valid(http.StatusOK, other, cousin)
}

// Otherwise who has a key for a day could have one for ever.
func TestKeys_makeNoneThatOutlivesThem(t *testing.T) {
	t.Parallel()
	s := start(t, withToken)
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	key := s.key(outbox.NewAPIKey{Name: "maker", Scopes: []string{"keys:write", "messages:read"}, ExpiresAt: end})
	post := func(name, expires, key string) *answer {
		body := fmt.Sprintf(`{"name":%q,"scopes":["messages:read"]}`, name)
		if expires != "" {
			body = fmt.Sprintf(`{"name":%q,"scopes":["messages:read"],"expires_at":%q}`, name, expires)
		}
		return s.request(http.MethodPost, "/v1/keys", body, bearer(key)...)
	}
	for _, late := range []time.Time{end.Add(time.Microsecond), end.AddDate(1, 0, 0)} {
		a := post("late", late.Format(time.RFC3339Nano), key)
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
		a.errorAt("body.expires_at")
	}
	half := end.Add(-30 * time.Minute)
	later := end.AddDate(1, 0, 0)
	lasting := s.key(outbox.NewAPIKey{Name: "lasting maker", Scopes: []string{"keys:write", "messages:read"}})
	for name, made := range map[string]struct{ expires, key, want string }{
		"default":       {"", key, end.Format(time.RFC3339Nano)},
		"same":          {end.Format(time.RFC3339Nano), key, end.Format(time.RFC3339Nano)},
		"elsewhere":     {end.In(time.FixedZone("", 7200)).Format(time.RFC3339Nano), key, end.Format(time.RFC3339Nano)},
		"sooner":        {half.Format(time.RFC3339Nano), key, half.Format(time.RFC3339Nano)},
		"lasting":       {"", lasting, ""},
		"lasting later": {later.Format(time.RFC3339Nano), lasting, later.Format(time.RFC3339Nano)},
		"operator":      {"", token, ""},
	} {
		post(name, made.expires, made.key).want(http.StatusCreated)
		keys, _ := s.get("/v1/keys", operator()...).want(http.StatusOK).document()["keys"].([]any)
		at := slices.IndexFunc(keys, func(k any) bool { return k.(map[string]any)["name"] == name })
		if at < 0 {
			t.Fatalf("%s: there is no such key", name)
		}
		got, _ := keys[at].(map[string]any)["expires_at"].(string)
		if got != made.want {
			t.Errorf("%s expires at %q, want %q", name, got, made.want)
		}
	}
}

// With the key of one tenant, nothing of another one can be seen or changed.
func TestKeys_seeOneTenant(t *testing.T) {
	t.Parallel()
	s := start(t, withToken)
	all := strings.Split(s.value(`SELECT array_to_string(mailcrane.api_key_scopes(), ' ')`), " ")
	a := s.key(outbox.NewAPIKey{Name: "a", Tenant: "a", Scopes: all})
	b := s.key(outbox.NewAPIKey{Name: "b", Tenant: "b", Scopes: all})
	created := s.invite(ada, bearer(a)...).want(http.StatusAccepted).document()
	s.request(http.MethodPost, "/v1/suppressions", `{"address":"bob@example.com"}`, bearer(a)...).want(http.StatusOK)
	if _, err := outbox.CreateWebhook(t.Context(), s.pool, "a", "https://example.com/a"); err != nil {
		t.Fatal(err)
	}
	owned := map[string]any{
		"webhooks":    first(t, s.get("/v1/webhooks", bearer(a)...).want(http.StatusOK).document(), "webhooks")["id"],
		"invitations": created["id"], "messages": created["message_id"],
		"keys": first(t, s.get("/v1/keys", bearer(a)...).want(http.StatusOK).document(), "keys")["id"],
	}
	before := s.value(everything)
	walked := 0
	for path, operations := range s.description().Paths {
		if !strings.Contains(path, "{id}") {
			continue
		}
		kind, _, _ := strings.Cut(strings.TrimPrefix(path, "/v1/"), "/")
		id, ok := owned[kind].(string)
		if !ok {
			t.Errorf("%s: the test has no id of such a thing", path)
			continue
		}
		for method := range operations {
			walked++
			s.request(strings.ToUpper(method), strings.Replace(path, "{id}", id, 1), `{"email":"eve@example.com"}`, bearer(b)...).problem(http.StatusNotFound, "not-found")
		}
	}
	for _, list := range []string{"invitations", "messages", "suppressions", "events", "webhooks"} {
		if rows, _ := s.get("/v1/"+list, bearer(b)...).want(http.StatusOK).document()[list].([]any); len(rows) > 0 {
			t.Errorf("tenant b sees %v", rows)
		}
		eventually(t, "tenant a sees its "+list, func() bool {
			rows, _ := s.get("/v1/"+list, bearer(a)...).want(http.StatusOK).document()[list].([]any)
			return len(rows) > 0
		})
	}
	if keys := first(t, s.get("/v1/keys", bearer(b)...).want(http.StatusOK).document(), "keys"); keys["tenant"] != "b" {
		t.Errorf("tenant b sees %v", keys)
	}
	s.request(http.MethodDelete, "/v1/suppressions/bob@example.com", "", bearer(b)...).problem(http.StatusNotFound, "not-found")
	if s.invite(ada, bearer(b)...).want(http.StatusAccepted).document()["id"] == created["id"] {
		t.Error("tenant b was given the invitation of tenant a")
	}
	if after := s.value(everything); after != before {
		t.Errorf("tenant b changed what is of tenant a:\n%s\n%s", before, after)
	}
	if walked < 10 {
		t.Errorf("only %d operations were tried", walked)
	}
}

// everything is what tenant a has.
const everything = `
	SELECT jsonb_build_array(
		(SELECT jsonb_agg(to_jsonb(i) ORDER BY i.id) FROM mailcrane.invitation AS i WHERE i.tenant = 'a'),
		(SELECT jsonb_agg(to_jsonb(m) ORDER BY m.id) FROM mailcrane.message AS m WHERE m.tenant = 'a'),
		(SELECT jsonb_agg(to_jsonb(s) ORDER BY s.address) FROM mailcrane.suppression AS s WHERE s.tenant = 'a'),
		(SELECT jsonb_agg(to_jsonb(k) - 'last_used_at' ORDER BY k.id) FROM mailcrane.api_key AS k WHERE k.tenant = 'a'))::text`

func TestKeys_ofOneTenantUseNoTokenOfAnother(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	hop := s.relay()
	a, b := bearer(s.key(outbox.NewAPIKey{Tenant: "a"})), bearer(s.key(outbox.NewAPIKey{Tenant: "b"}))
	invited := s.invite(ada, a...).want(http.StatusAccepted)
	_, message, _ := s.finished(invited.Header.Get("Location"))
	mailed := tokenBody(hop.token(message["id"].(string)))
	for _, what := range []string{"verify", "accept", "decline"} {
		s.request(http.MethodPost, "/v1/invitations/"+what, mailed, b...).problem(http.StatusNotFound, "invalid-token")
	}
	s.request(http.MethodPost, "/v1/invitations/verify", mailed, a...).want(http.StatusOK)
	s.request(http.MethodPost, "/v1/invitations/accept", mailed, a...).want(http.StatusOK)
}

// What a test key writes looks sent, and no relay has got it. It does not get in the
// way of what is not a test.
func TestKeys_ofTestsReachNoRelay(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	hop := s.relay()
	test, live := bearer(s.key(outbox.NewAPIKey{Tenant: "a", Test: true})), bearer(s.key(outbox.NewAPIKey{Tenant: "a"}))
	for group := range 2 {
		s.finished(s.request(http.MethodPost, fmt.Sprintf("/v1/groups/%d/invitations", group), ada, live...).want(http.StatusAccepted).Header.Get("Location"))
	}
	for group := range 5 { // an address may get three a day
		invited := s.request(http.MethodPost, fmt.Sprintf("/v1/groups/%d/invitations", group), ada, test...).want(http.StatusAccepted)
		_, message, attempt := s.finished(invited.Header.Get("Location"))
		if message["status"] != "sent" || attempt["outcome"] != "accepted" || attempt["reply"] != "test: handed to no relay" {
			t.Errorf("message is %v", message)
		}
	}
	s.finished(s.request(http.MethodPost, "/v1/groups/2/invitations", ada, live...).want(http.StatusAccepted).Header.Get("Location"))
	for group := range 2 {
		s.finished(s.request(http.MethodPost, fmt.Sprintf("/v1/groups/%d/invitations", 10+group), ada, test...).want(http.StatusAccepted).Header.Get("Location"))
	}
	if got := hop.count(); got != 3 {
		t.Errorf("the relay has got %d messages instead of the three that are not tests", got)
	}
	if n := count(t, s.pool, `SELECT count(*) FROM mailcrane.message WHERE status = 'suppressed'`); n != 0 {
		t.Errorf("%d messages were kept from an address", n)
	}
}
