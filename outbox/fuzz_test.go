package outbox_test

import (
	"context"
	"encoding/base64"
	"errors"
	netmail "net/mail"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// An address that is taken is one to net/mail as well, and the same.
func FuzzAddress(f *testing.F) {
	pool := outboxtest.Database(f)
	for _, address := range []string{
		"ada@example.com", "Ada.Lovelace+club@EXAMPLE.com", "ada@bücher.example", "ada@xn--bcher-kva.example", "a@b", "@", "ada", "ada@example.com.", ".ada@example.com",
		"ada..lovelace@example.com", `"ada lovelace"@example.com`, "ada@[192.0.2.1]", "Ada <ada@example.com>", "ada@example.com, bob@example.com", "ada@exa_mple.com",
		"ada@-example.com", "ada@example-.com", "ada\u200b@example.com", " ada@example.com ", "ada@example.com\r\nBcc: eve@example.com", "a!#$%&'*+-/=?^_`{|}~@example.com",
		strings.Repeat("a", 64) + "@example.com", strings.Repeat("a", 65) + "@example.com", "ada@" + strings.Repeat("a.", 130) + "com", "ada(comment)@example.com", "ada@example.com(x)",
	} {
		f.Add(address)
	}
	f.Fuzz(func(t *testing.T, given string) {
		if !utf8.ValidString(given) || strings.ContainsRune(given, 0) {
			return
		}
		var address, problem *string
		err := pool.QueryRow(t.Context(), `
			SELECT n.address, mailcrane.address_problem(n.address)
			FROM (SELECT mailcrane.normalize_address($1) AS address) AS n`, given).Scan(&address, &problem)
		if err != nil {
			t.Fatalf("%q: %v", given, err)
		}
		if problem != nil {
			return
		}
		parsed, err := netmail.ParseAddress(*address)
		if err != nil || parsed.Address != *address || parsed.Name != "" {
			t.Errorf("%q is taken as %q, and to net/mail it is %v, %v", given, *address, parsed, err)
		}
		if local, domain, _ := strings.Cut(*address, "@"); len(local) > 64 || !strings.Contains(domain, ".") || strings.ContainsAny(*address, " \t\r\n<>,;:\"()[]\\") {
			t.Errorf("%q is taken as %q", given, *address)
		}
	})
}

var errGood = errors.New("the token is good")

// Whatever somebody presents as a token is no error of ours, and good for nothing, but
// for the very one that was mailed.
func FuzzToken(f *testing.F) {
	pool := outboxtest.Database(f)
	receipt, err := outbox.Invite(f.Context(), pool, outbox.Invitation{GroupID: "g", Email: "ada@example.com"})
	if err != nil {
		f.Fatal(err)
	}
	made := func(secret string, generation int) (token string, hash []byte) {
		return outbox.AcceptLink("{token}", []byte(secret), receipt.InvitationID, generation)
	}
	mailed, hash := made("0123456789abcdef0123456789abcdef", 1)
	exec(f, pool, `
		INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, token_hash, outcome, was_unknown, finished_at)
		SELECT id, 1, job_id, mailcrane.uuid_v7(), $1, 'accepted', false, now() FROM mailcrane.message`, hash)
	foreign, _ := made("another secret", 1)
	older, _ := made("0123456789abcdef0123456789abcdef", 0)
	for _, token := range []string{
		mailed, foreign, older, strings.Repeat("A", 43), strings.Repeat("-", 43), strings.Repeat("_", 43), "", "\u00e9", receipt.InvitationID,
		mailed[:42], mailed + "A", mailed + "=", " " + mailed, mailed + "\n", mailed + "\x00", strings.ToUpper(mailed), strings.ToLower(mailed),
		mailed[:42] + string(mailed[42]+1), // may well be the same bytes: the last two bits say nothing
		strings.NewReplacer("-", "+", "_", "/").Replace(mailed) + "=",
	} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		for what, use := range map[string]func(context.Context, outbox.Tx, string) (outbox.InvitationRecord, error){
			"verify": outbox.Verify, "accept": outbox.Accept, "decline": outbox.Decline,
		} {
			err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				record, err := use(t.Context(), tx, token)
				if err == nil && record.ID != receipt.InvitationID {
					t.Errorf("%s %q: it is for %s", what, token, record.ID)
				}
				if err == nil {
					err = errGood // and rolled back
				}
				return err
			})
			if token == mailed && !errors.Is(err, errGood) || token != mailed && !errors.Is(err, outbox.ErrInvalidToken) {
				t.Errorf("%s %q: %v", what, token, err)
			}
		}
		if !utf8.ValidString(token) || strings.ContainsRune(token, 0) {
			return
		}
		var id *string
		if err := pool.QueryRow(t.Context(), `SELECT replace(mailcrane.token_invitation($1)::text, '-', '')`, token).Scan(&id); err != nil {
			t.Fatalf("%q: %v", token, err)
		}
		bytes, err := base64.RawURLEncoding.DecodeString(token)
		if isToken := err == nil && len(bytes) == 32; id != nil && !isToken {
			t.Errorf("%q is taken for a token", token)
		}
	})
}
