package sender_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
)

// certificate makes a self-signed one for 127.0.0.1: what the server shows, and
// what a client needs to believe it.
func certificate(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	return server, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// startTLS turns to TLS, as the server.
func (s *session) startTLS(config *tls.Config) {
	s.conn = tls.Server(s.conn, config)
	s.r.Reset(s.conn)
}

func (s *session) accept() {
	s.envelope()
	s.dot()
	s.say("250 ok")
}

func trusting(config *tls.Config) func(*sender.EmailConfig) {
	return func(c *sender.EmailConfig) { c.TLS = config }
}

func TestSend_upgradesWithSTARTTLS(t *testing.T) {
	t.Parallel()
	server, client := certificate(t)
	p := startPeer(t, func(_ int, s *session) {
		s.greet("STARTTLS", "PIPELINING", "SIZE 1")
		s.hear()
		s.say("220 ready", "250-injected before TLS", "250 AUTH PLAIN") // RFC 3207 section 5: to be thrown away
		s.startTLS(server)
		s.hear()
		s.say("250 peer")
		s.accept()
	})
	email := newEmail(t, "smtp://"+p.listener.Addr().String(), trusting(client))
	var h handovers
	_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
	wantOutcome(t, err, outbox.Accepted)
	_ = email.Close()
	log := p.stop()[0]
	want := "EHLO client.example.com\r\nSTARTTLS\r\nEHLO client.example.com\r\nMAIL FROM:<club@example.com>\r\n"
	if !strings.HasPrefix(log, want) {
		t.Errorf("the relay got:\n%.300s", log)
	}
}

func TestSend_speaksTLSFromTheFirstByte(t *testing.T) {
	t.Parallel()
	server, client := certificate(t)
	p := startPeer(t, func(_ int, s *session) {
		s.startTLS(server)
		s.greet("PIPELINING")
		s.accept()
		s.accept()
	})
	email := newEmail(t, "smtps://"+p.listener.Addr().String(), trusting(client))
	var h handovers
	for range 2 {
		_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
		wantOutcome(t, err, outbox.Accepted)
	}
	_ = email.Close()
	if logs := p.stop(); len(logs) != 1 || !strings.HasSuffix(logs[0], "QUIT\r\n") {
		t.Errorf("there were %d connections", len(logs))
	}
}

// Whoever cannot have TLS, or cannot log in, sends nothing: no message is to
// blame, and an operator hears of it.
func TestSend_tellsTheOperatorWhenTheRelayRefusesUs(t *testing.T) {
	t.Parallel()
	server, client := certificate(t)
	const login = "smtp://ada:pencil@%s?tls=none"
	for name, test := range map[string]struct {
		url    string
		tls    *tls.Config
		script func(*session)
		words  string
	}{
		"STARTTLS is not offered": {
			url: "smtp://%s", script: func(s *session) { s.greet() }, words: "STARTTLS",
		},
		"the certificate is not known": {
			url: "smtp://%s",
			script: func(s *session) {
				s.greet("STARTTLS")
				s.hear()
				s.say("220 ready")
				s.startTLS(server)
				s.hear()
			},
			words: "certificate",
		},
		"the certificate is of another": {
			url: "smtps://%s", tls: &tls.Config{RootCAs: client.RootCAs, ServerName: "mail.example.com"},
			script: func(s *session) { s.startTLS(server); s.hear() },
			words:  "certificate",
		},
		"greeting 554": {url: "smtp://%s?tls=none", script: func(s *session) { s.say("554-no mail", "554 from you") }, words: "greeting: 554 no mail from you"},
		"EHLO 554": {
			url:    "smtp://%s?tls=none",
			script: func(s *session) { s.say("220 peer"); s.hear(); s.say("554 no"); s.hear(); s.say("554 no") },
			words:  "EHLO: 554",
		},
		"AUTH is not offered": {url: login, script: func(s *session) { s.greet() }, words: "does not offer AUTH"},
		"AUTH offers nothing we know": {
			url: login, script: func(s *session) { s.greet("AUTH NTLM CRAM-MD5 XPLAIN") }, words: "NTLM CRAM-MD5",
		},
		"AUTH does not offer what we want": {
			url: login + "&auth=scram-sha-256", script: func(s *session) { s.greet("AUTH PLAIN LOGIN") }, words: "no AUTH mechanism",
		},
		"AUTH goes on for ever": {
			url: login,
			script: func(s *session) {
				s.greet("AUTH LOGIN")
				for range 10 {
					s.hear()
					s.say("334 ")
				}
			},
			words: "AUTH: the relay refuses us: LOGIN: unexpected",
		},
		"AUTH challenge is nonsense": {
			url: login, script: func(s *session) { s.greet("AUTH LOGIN"); s.hear(); s.say("334 %%%") }, words: "not base64",
		},
		"AUTH 535": {
			url: login,
			script: func(s *session) {
				s.greet("AUTH PLAIN")
				s.hear()
				s.say("535 5.7.8 wrong password for ada@example.com")
			},
			words: "AUTH: 535 5.7.8 wrong password for ***@example.com",
		},
		"MAIL 530": {
			url: "smtp://%s?tls=none", script: func(s *session) { s.greet(); s.hear(); s.say("530 5.7.0 log in") }, words: "530",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, func(_ int, s *session) { test.script(s) })
			logger, log := recordingLogger()
			email := newEmail(t, fmt.Sprintf(test.url, p.listener.Addr()), trusting(test.tls),
				func(c *sender.EmailConfig) { c.Logger = logger })
			_, err := email.Send(t.Context(), invitation("ada@example.com"), noHandover(t))
			wantOutcome(t, err, outbox.Deferred)
			if !errors.Is(err, sender.ErrRefused) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("%v; want ErrRefused and %q", err, test.words)
			}
			if !strings.Contains(log.String(), "level=ERROR") || strings.Contains(log.String(), "ada@") || strings.Contains(log.String(), "pencil") {
				t.Errorf("the log is %q", log.String())
			}
			_ = email.Close()
			p.stop() // returns when the socket is closed: a failed dial leaks nothing
		})
	}
}

// A relay that is only unwell is no matter for an alarm.
func TestSend_temporaryTroubleAtConnectIsNoRefusal(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]func(*session){
		"greeting 421":   func(s *session) { s.say("421 busy") },
		"greeting ended": func(s *session) { s.hangUp() },
		"EHLO ended":     func(s *session) { s.say("220 peer"); s.hear(); s.hangUp() },
		"AUTH 454": func(s *session) {
			s.greet("AUTH PLAIN")
			s.hear()
			s.say("454 4.7.0 try later")
		},
		"AUTH ended": func(s *session) { s.greet("AUTH PLAIN"); s.hear(); s.hangUp() },
		"AUTH hangs": func(s *session) { s.greet("AUTH PLAIN"); s.hear() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, func(_ int, s *session) { script(s) })
			email := newEmail(t, fmt.Sprintf("smtp://ada:pencil@%s?tls=none", p.listener.Addr()),
				func(c *sender.EmailConfig) { c.Timeouts.Command = 200 * time.Millisecond })
			_, err := email.Send(t.Context(), invitation("ada@example.com"), noHandover(t))
			wantOutcome(t, err, outbox.Deferred)
			if errors.Is(err, sender.ErrRefused) {
				t.Errorf("it is a refusal: %v", err)
			}
			p.stop()
		})
	}
}

func TestSend_choosesTheBestMechanismOnOffer(t *testing.T) {
	t.Parallel()
	const plain = "\x00ada\x00pencil"
	b64 := base64.StdEncoding.EncodeToString
	for name, test := range map[string]struct {
		offer, choice string
		script        func(*session)
		want          string // what the relay gets, or its beginning
	}{
		"PLAIN before LOGIN": {
			offer:  "LOGIN PLAIN CRAM-MD5 NTLM",
			script: func(s *session) { s.hear(); s.say("235 ok") },
			want:   "AUTH PLAIN " + b64([]byte(plain)) + "\r\n",
		},
		"LOGIN": {
			offer: "LOGIN",
			script: func(s *session) {
				s.hear()
				s.say("334 VXNlcm5hbWU6")
				s.hear()
				s.say("334 UGFzc3dvcmQ6")
				s.hear()
				s.say("235 ok")
			},
			want: "AUTH LOGIN\r\n" + b64([]byte("ada")) + "\r\n" + b64([]byte("pencil")) + "\r\n",
		},
		"by choice": {
			offer: "SCRAM-SHA-256 plain", choice: "&auth=plain",
			script: func(s *session) { s.hear(); s.say("235 ok") },
			want:   "AUTH PLAIN ",
		},
		"SCRAM-SHA-256 before all others": {
			offer:  "PLAIN LOGIN SCRAM-SHA-1 SCRAM-SHA-256",
			script: func(s *session) { scramServer(s, sha256.New, "pencil", 4096); s.say("235 ok") },
			want:   "AUTH SCRAM-SHA-256\r\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, func(_ int, s *session) {
				s.greet("AUTH " + test.offer)
				test.script(s)
				s.accept()
			})
			email := newEmail(t, fmt.Sprintf("smtp://ada:pencil@%s?tls=none%s", p.listener.Addr(), test.choice))
			var h handovers
			_, err := email.Send(t.Context(), invitation("ada@example.com"), h.record)
			wantOutcome(t, err, outbox.Accepted)
			_ = email.Close()
			log := p.stop()[0]
			if got, ok := strings.CutPrefix(log, "EHLO client.example.com\r\n"); !ok || !strings.HasPrefix(got, test.want) {
				t.Errorf("the relay got %.200q, want %q", got, test.want)
			}
		})
	}
}

// scramServer is the other side of RFC 5802, as far as one login needs it. It
// returns before the final 235.
func scramServer(s *session, h func() hash.Hash, password string, iterations int) {
	challenge := func(text string) string {
		s.say("334 " + base64.StdEncoding.EncodeToString([]byte(text)))
		answer, _ := base64.StdEncoding.DecodeString(s.hear())
		return string(answer)
	}
	s.hear()
	firstBare := strings.TrimPrefix(challenge(""), "n,,")
	_, nonce, _ := strings.Cut(firstBare, "r=")
	salt := []byte("salt of the earth")
	serverFirst := fmt.Sprintf("r=%sserver,s=%s,i=%d", nonce, base64.StdEncoding.EncodeToString(salt), iterations)
	final := challenge(serverFirst)
	withoutProof, _, proved := strings.Cut(final, ",p=")
	if !proved {
		return
	}
	salted, _ := pbkdf2.Key(h, password, salt, iterations, h().Size())
	mac := func(key []byte, text string) []byte {
		m := hmac.New(h, key)
		_, _ = m.Write([]byte(text))
		return m.Sum(nil)
	}
	signature := mac(mac(salted, "Server Key"), firstBare+","+serverFirst+","+withoutProof)
	challenge("v=" + base64.StdEncoding.EncodeToString(signature))
}

// SCRAM works both ways: a relay that does not know the password is not the one
// we mean. And it may not make us work for ever, nor so little that the password
// could be guessed from the exchange.
func TestSend_SCRAM_wantsProofFromTheRelay(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]func(*session){
		"no proof": func(s *session) {
			s.hear()
			s.say("334 ")
			s.hear()
			s.say("235 welcome, whoever you are")
		},
		"proof of another password": func(s *session) { scramServer(s, sha256.New, "crayon", 4096) },
		"proof before the challenge": func(s *session) {
			s.hear()
			s.say("334 ")
			s.hear()
			m := hmac.New(sha256.New, nil)
			_, _ = m.Write([]byte("Server Key"))
			signature := hmac.New(sha256.New, m.Sum(nil)).Sum(nil)
			s.say("334 " + base64.StdEncoding.EncodeToString([]byte("v="+base64.StdEncoding.EncodeToString(signature))))
			s.hear()
			s.say("235 ok")
		},
		"too few iterations":  func(s *session) { scramServer(s, sha256.New, "pencil", 1) },
		"too many iterations": func(s *session) { scramServer(s, sha256.New, "pencil", 2_000_001) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, func(_ int, s *session) {
				s.greet("AUTH SCRAM-SHA-256")
				script(s)
			})
			email := newEmail(t, fmt.Sprintf("smtp://ada:pencil@%s?tls=none", p.listener.Addr()))
			_, err := email.Send(t.Context(), invitation("ada@example.com"), noHandover(t))
			wantOutcome(t, err, outbox.Deferred)
			if !errors.Is(err, sender.ErrRefused) {
				t.Errorf("%v", err)
			}
		})
	}
}
