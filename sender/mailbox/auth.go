package mailbox

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/emersion/go-smtp"
)

// loginServer is the server's side of AUTH LOGIN, which no RFC defines.
type loginServer struct {
	check func(name, password string) error
	step  int
	name  string
}

// Next implements sasl.Server.
func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	if l.step == 0 && response == nil {
		l.step = 1
		return []byte("Username:"), false, nil
	}
	if l.name == "" {
		l.step, l.name = 2, string(response)
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(l.name, string(response))
}

const scramName, scramIterations = "SCRAM-SHA-256", 4096

// scramServer is the server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677),
// without channel binding.
type scramServer struct {
	users  map[string]string
	done   func()
	bare   string // the client's first message
	first  string // ours
	nonce  string
	salted []byte
	proven bool
}

// Next implements sasl.Server.
func (s *scramServer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case response == nil:
		return []byte{}, false, nil // the client did not begin by itself
	case s.first == "":
		challenge, err = s.begin(string(response))
		return challenge, false, err
	case !s.proven:
		challenge, err = s.prove(string(response))
		return challenge, false, err
	default:
		s.done()
		return nil, true, nil
	}
}

func (s *scramServer) begin(message string) ([]byte, error) {
	bare, found := strings.CutPrefix(message, "n,,")
	name, clientNonce := attribute(bare, "n"), attribute(bare, "r")
	password, known := s.users[strings.NewReplacer("=2C", ",", "=3D", "=").Replace(name)]
	if !found || !known || clientNonce == "" {
		return nil, smtp.ErrAuthFailed
	}
	salt := []byte(rand.Text())
	salted, err := pbkdf2.Key(sha256.New, password, salt, scramIterations, sha256.Size)
	if err != nil {
		return nil, err
	}
	s.bare, s.nonce, s.salted = bare, clientNonce+rand.Text(), salted
	s.first = fmt.Sprintf("r=%s,s=%s,i=%d", s.nonce, base64.StdEncoding.EncodeToString(salt), scramIterations)
	return []byte(s.first), nil
}

func (s *scramServer) prove(message string) ([]byte, error) {
	withoutProof, encoded, _ := strings.Cut(message, ",p=")
	proof, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || attribute(message, "r") != s.nonce || attribute(message, "c") != "biws" {
		return nil, smtp.ErrAuthFailed
	}
	signed := s.bare + "," + s.first + "," + withoutProof
	clientKey := sum(s.salted, "Client Key")
	storedKey := sha256.Sum256(clientKey)
	want := make([]byte, len(clientKey))
	subtle.XORBytes(want, clientKey, sum(storedKey[:], signed))
	if !hmac.Equal(want, proof) {
		return nil, smtp.ErrAuthFailed
	}
	s.proven = true
	return []byte("v=" + base64.StdEncoding.EncodeToString(sum(sum(s.salted, "Server Key"), signed))), nil
}

func sum(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// attribute finds "name=value" in a message of SCRAM.
func attribute(message, name string) string {
	for part := range strings.SplitSeq(message, ",") {
		if value, found := strings.CutPrefix(part, name+"="); found {
			return value
		}
	}
	return ""
}
