package sender

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/wneessen/go-mail/smtp"
)

// mechanismInfo is one way to log in.
type mechanismInfo struct {
	name string
	auth func(Relay) smtp.Auth
}

// mechanisms lists the ways to log in that we know, best first. The library's
// own discovery is not used: it prefers NTLM and CRAM-MD5.
func mechanisms() []mechanismInfo {
	return []mechanismInfo{
		{"SCRAM-SHA-256", func(r Relay) smtp.Auth { return &scram{Auth: smtp.ScramSHA256Auth(r.user, r.password)} }},
		{"SCRAM-SHA-1", func(r Relay) smtp.Auth { return &scram{Auth: smtp.ScramSHA1Auth(r.user, r.password)} }},
		// Whether the connection is safe enough for these two was decided when the
		// relay's URL was parsed; the library decides by a shorter list of names.
		{"PLAIN", func(r Relay) smtp.Auth { return smtp.PlainAuth("", r.user, r.password, r.host, true) }},
		{"LOGIN", func(r Relay) smtp.Auth { return smtp.LoginAuth(r.user, r.password, r.host, true) }},
	}
}

// login authenticates (RFC 4954) with the mechanism that the relay's URL names,
// or with the best of those on offer.
func login(client *smtp.Client, r Relay) error {
	if r.user == "" {
		return nil
	}
	found, offer := client.Extension("AUTH")
	if !found {
		return fmt.Errorf("%w: it does not offer AUTH, and the relay URL holds credentials", ErrRefused)
	}
	offered := strings.Fields(strings.ToUpper(offer))
	for _, m := range mechanisms() {
		if r.mechanism != "" && r.mechanism != m.name {
			continue
		}
		for _, o := range offered {
			if o == m.name {
				return authError(m.name, exchange(client.Text, m.auth(r), r.host))
			}
		}
	}
	return fmt.Errorf("%w: it offers no AUTH mechanism that we may use, only %s", ErrRefused, clean(offer))
}

// exchange runs one authentication. The library's own loop, when something goes
// wrong, sends "*" and QUIT and waits for both answers; here the caller closes
// the socket.
func exchange(text *textproto.Conn, a smtp.Auth, host string) error {
	const maxRounds = 8
	name, initial, err := a.Start(&smtp.ServerInfo{Name: host})
	if err != nil {
		return err
	}
	line := "AUTH " + name
	if initial != nil {
		line += " " + base64.StdEncoding.EncodeToString(initial)
	}
	for range maxRounds {
		if err := text.PrintfLine("%s", line); err != nil {
			return err
		}
		code, answer, err := text.ReadResponse(0)
		switch {
		case err != nil:
			return err
		case code == 235:
			_, err := a.Next(nil, false)
			return err
		case code != 334:
			return &textproto.Error{Code: code, Msg: answer}
		}
		challenge, err := base64.StdEncoding.DecodeString(answer)
		if err != nil {
			return errors.New("the relay's challenge is not base64")
		}
		response, err := a.Next(challenge, true)
		if err != nil {
			return err
		}
		line = base64.StdEncoding.EncodeToString(response)
	}
	return errors.New("the relay has one challenge after the other")
}

// authError leaves the relay's answers and the network's errors as they are. Any
// other one means that the mechanism itself gave up on the relay.
func authError(mechanism string, err error) error {
	_, answered := errors.AsType[*textproto.Error](err)
	if err == nil || answered || isOurs(err) {
		return err
	}
	return fmt.Errorf("%w: %s: %s", ErrRefused, mechanism, clean(err.Error()))
}

// scram adds to the library's SCRAM (RFC 5802) what it leaves out: a bound on
// the work that a relay may ask for, and the insistence that the relay, too,
// proves that it knows the password.
type scram struct {
	smtp.Auth
	challenged bool // the relay has named salt and iterations
	proved     bool // the relay has signed with the password
}

// Bounds of the iteration count: RFC 7677 section 4 asks for at least 4096; at
// the upper end a login takes about a second of one core.
const (
	minIterations = 4096
	maxIterations = 2_000_000
)

// Next answers one challenge.
func (s *scram) Next(fromServer []byte, more bool) ([]byte, error) {
	if !more && !s.proved {
		return nil, errors.New("the relay did not prove that it knows the password")
	}
	if more && bytes.HasPrefix(fromServer, []byte("r=")) {
		if err := checkIterations(fromServer); err != nil {
			return nil, err
		}
		s.challenged = true
	}
	answer, err := s.Auth.Next(fromServer, more)
	// Without a challenge the library would check the signature against an empty key.
	s.proved = s.proved || s.challenged && more && err == nil && bytes.HasPrefix(fromServer, []byte("v="))
	return answer, err
}

func checkIterations(challenge []byte) error {
	for field := range bytes.SplitSeq(challenge, []byte(",")) {
		count, ok := bytes.CutPrefix(field, []byte("i="))
		if !ok {
			continue
		}
		if n, err := strconv.Atoi(string(count)); err != nil || n < minIterations || n > maxIterations {
			return fmt.Errorf("the iteration count must be %d to %d", minIterations, maxIterations)
		}
	}
	return nil
}
