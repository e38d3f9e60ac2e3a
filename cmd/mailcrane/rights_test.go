package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// rights are those of the README, each on its own.
func rights(t *testing.T) (all []string) {
	t.Helper()
	for _, block := range blocks(readme(t), "sql") {
		for _, grant := range regexp.MustCompile(`(?m)^GRANT (.+) ON (SCHEMA |SEQUENCE |)(.+) TO app;$`).FindAllStringSubmatch(block, -1) {
			for _, right := range regexp.MustCompile(`([A-Z]+)(?: \(([^)]*)\))?`).FindAllStringSubmatch(grant[1], -1) {
				for object := range strings.SplitSeq(grant[3], ", ") {
					for column := range strings.SplitSeq(right[2], ", ") {
						if column != "" {
							column = " (" + column + ")"
						}
						all = append(all, right[1]+column+" ON "+grant[2]+object)
					}
				}
			}
		}
	}
	return all
}

// What the README grants to an application suffices for what it calls, and there is
// nothing in it that is not needed.
func TestReadme_theRightsOfAnApplicationSuffice(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	role := "app_" + strings.ReplaceAll(strings.ToLower(pool.Config().ConnConfig.Database), "-", "_")
	const secret = "0123456789abcdef0123456789abcdef"
	execute := func(tx outbox.Tx, statements ...string) error {
		for _, statement := range statements {
			rows, err := tx.Query(context.WithoutCancel(t.Context()), statement)
			if err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
			for rows.Next() {
			}
			if rows.Close(); rows.Err() != nil {
				return fmt.Errorf("%s: %w", statement, rows.Err())
			}
		}
		return nil
	}
	ids, tokens := map[string]string{}, map[string]string{}
	for _, name := range []string{"accept", "decline", "mine", "not mine", "again", "moved", "revoked", "held", "lapsed"} {
		receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: strings.ReplaceAll(name, " ", "-") + "@example.com", InviterID: "7"})
		if err != nil {
			t.Fatal(err)
		}
		token, hash := outbox.AcceptLink("{token}", []byte(secret), receipt.InvitationID, 1)
		_, err = pool.Exec(t.Context(), `
			INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, token_hash, outcome, was_unknown, finished_at)
			SELECT id, 1, job_id, mailcrane.uuid_v7(), $2, 'deferred', false, now() FROM mailcrane.message WHERE id = $1::text::uuid`, receipt.MessageID, hash)
		if err != nil {
			t.Fatal(err)
		}
		ids[name], tokens[name] = receipt.InvitationID, token
	}
	err := execute(pool, `CREATE ROLE `+role,
		`INSERT INTO mailcrane.quota (kind, at_most) VALUES ('tenant', 1000), ('inviter', 1000)`,
		`INSERT INTO mailcrane.suppression (address, reason, source) VALUES ('eve@example.com', 'asked', 'test')`,
		`UPDATE mailcrane.policy SET resend_after = '0'`,
		`UPDATE mailcrane.message SET status = 'held', held_by = 'unknown' WHERE recipient = 'held@example.com'`,
		`UPDATE mailcrane.invitation SET expires_at = now() WHERE email = 'lapsed@example.com'`)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := execute(pool, `DROP OWNED BY `+role, `DROP ROLE `+role); err != nil {
			t.Error(err)
		}
	})
	// without says how the calls of an application end that lacks a right.
	without := func(right string) error {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.WithoutCancel(t.Context()))
		for _, given := range rights(t) {
			if given == right {
				continue
			}
			if err := execute(tx, `GRANT `+given+` TO `+role); err != nil {
				t.Fatal(err)
			}
		}
		return execute(tx, append([]string{`SET LOCAL ROLE ` + role}, calls(ids, tokens)...)...)
	}
	if err := without(""); err != nil {
		t.Errorf("the rights do not suffice: %v", err)
	}
	all := rights(t)
	for _, right := range all {
		if err := without(right); err == nil {
			t.Errorf("nothing needs %s", right)
		}
	}
	t.Logf("%d rights", len(all))
	if len(all) < 25 {
		t.Errorf("found %d rights in the README only: %q", len(all), all)
	}
}

// calls are what an application says.
func calls(ids, tokens map[string]string) []string {
	return []string{
		`SELECT * FROM mailcrane.invite(group_id => 'g', email => 'new@example.com', inviter_id => '7', idempotency_key => 'k')`,
		`SELECT * FROM mailcrane.invite(group_id => 'g', email => 'new@example.com')`,
		`SELECT * FROM mailcrane.invite(group_id => 'g', email => 'eve@example.com')`,
		`SELECT * FROM mailcrane.invite(group_id => 'g', email => 'lapsed@example.com')`,
		`SELECT * FROM mailcrane.invite(group_id => 'g', email => 'later@example.com', remind_after => '{1 day}')`,
		`SELECT * FROM mailcrane.invite_many('[{"group_id": "g", "email": "one@example.com"}, {"group_id": "g", "email": "new@example.com"}]')`,
		`SELECT * FROM mailcrane.enqueue('ada@example.com', 'verify', '{"link": "https://example.com"}')`,
		`SELECT * FROM mailcrane.verify('` + tokens["accept"] + `')`,
		`SELECT * FROM mailcrane.accept('` + tokens["accept"] + `')`,
		`SELECT * FROM mailcrane.decline('` + tokens["decline"] + `')`,
		`SELECT * FROM mailcrane.accept_invitation('` + ids["mine"] + `')`,
		`SELECT * FROM mailcrane.decline_invitation('` + ids["not mine"] + `')`,
		`SELECT * FROM mailcrane.resend('` + ids["again"] + `')`,
		`SELECT * FROM mailcrane.change_address('` + ids["moved"] + `', 'elsewhere@example.com')`,
		`SELECT * FROM mailcrane.change_address('` + ids["moved"] + `', 'elsewhere2@example.com')`,
		`SELECT mailcrane.revoke('` + ids["revoked"] + `')`,
		`SELECT mailcrane.revoke('` + ids["held"] + `')`,
		`SELECT mailcrane.cancel_message(m.id) FROM mailcrane.message AS m WHERE m.recipient = 'one@example.com'`,
	}
}
