package outbox

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"
)

// AcceptLink makes the link of an invitation whose application passed none, and
// the hash of the token in it. The token is derived, not stored: whoever reads
// the database, a backup or a log finds no link that works. It is the same on
// every attempt, and another one for the next generation of the invitation.
//
// A token is 32 bytes, in base64url (RFC 4648 section 5): the id of the invitation,
// by which the database finds it, and 16 bytes of an HMAC.
//
// Without an acceptURL, which has {token} in it, and a secret there is no link.
func AcceptLink(acceptURL string, secret []byte, invitationID string, generation int) (link string, tokenHash []byte) {
	if acceptURL == "" || len(secret) == 0 {
		return "", nil
	}
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "mailcrane invitation %s %d", invitationID, generation)
	var id pgtype.UUID
	_ = id.Scan(invitationID) // it comes from the database
	token := base64.RawURLEncoding.EncodeToString(append(id.Bytes[:], mac.Sum(nil)[:16]...))
	hash := sha256.Sum256([]byte(token))
	return strings.ReplaceAll(acceptURL, "{token}", token), hash[:]
}
