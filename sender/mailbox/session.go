package mailbox

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// session is what the SMTP server asks while a client is there.
type session struct {
	server   *Server
	conn     *smtp.Conn
	loggedIn bool
	from     string
	to       []string
}

func (s *Server) newSession(c *smtp.Conn) (smtp.Session, error) {
	return &session{server: s, conn: c}, nil
}

// AuthMechanisms implements smtp.AuthSession.
func (s *session) AuthMechanisms() []string {
	if s.server.users == nil {
		return nil
	}
	return []string{sasl.Plain, "LOGIN", scramName}
}

// Auth implements smtp.AuthSession.
func (s *session) Auth(mechanism string) (sasl.Server, error) {
	if fault, found := s.server.faults.find(Auth); found {
		if err, ok := s.server.act(fault, s.conn.Conn()); !ok {
			return nil, err
		}
	}
	switch mechanism {
	case sasl.Plain:
		return sasl.NewPlainServer(func(_, name, password string) error { return s.login(name, password) }), nil
	case "LOGIN":
		return &loginServer{check: s.login}, nil
	case scramName:
		return &scramServer{users: s.server.users, done: func() { s.loggedIn = true }}, nil
	default:
		return nil, smtp.ErrAuthUnknownMechanism
	}
}

func (s *session) login(name, password string) error {
	if want, ok := s.server.users[name]; !ok || want != password {
		return smtp.ErrAuthFailed
	}
	s.loggedIn = true
	return nil
}

// Mail implements smtp.Session.
func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if s.server.users != nil && !s.loggedIn {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "authentication required"}
	}
	s.from = from
	return s.fault(MailFrom)
}

// Rcpt implements smtp.Session.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if err := s.fault(Rcpt, to); err != nil {
		return err
	}
	s.to = append(s.to, to)
	return nil
}

// fault lets one act, and gives what to answer.
func (s *session) fault(at Phase, recipients ...string) error {
	fault, found := s.server.faults.find(at, recipients...)
	if !found {
		return nil
	}
	err, _ := s.server.act(fault, s.conn.Conn())
	return err
}

// Data implements smtp.Session. The reader ends with the final dot; when the
// client is gone before, it fails, and nothing is kept.
func (s *session) Data(r io.Reader) error {
	var raw bytes.Buffer
	if _, err := io.CopyN(&raw, r, 1); err != nil {
		return fmt.Errorf("no content: %w", err)
	}
	if err := s.fault(Body, s.to...); err != nil {
		return err
	}
	if _, err := io.Copy(&raw, r); err != nil {
		return err
	}
	fault, found := s.server.faults.find(Dot, s.to...)
	if !found {
		return s.keep(raw.Bytes())
	}
	if fault.Keep {
		if err := s.keep(raw.Bytes()); err != nil {
			return err
		}
	}
	err, goesOn := s.server.act(fault, s.conn.Conn())
	if goesOn && !fault.Keep {
		return s.keep(raw.Bytes())
	}
	return err
}

// keep keeps a complete mail, or gives the answer that refuses it.
func (s *session) keep(raw []byte) error {
	if s.server.keep != nil {
		if err := s.server.keep(s.from, s.to, raw); err != nil {
			return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "not kept: " + err.Error()}
		}
	}
	if s.server.store.capacity > 0 {
		s.server.store.add(s.from, s.to, raw, time.Now())
	}
	return nil
}

// Reset implements smtp.Session.
func (s *session) Reset() { s.from, s.to = "", nil }

// Logout implements smtp.Session.
func (s *session) Logout() error { return nil }
