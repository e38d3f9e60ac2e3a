package sender

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"time"

	"github.com/wneessen/go-mail/smtp"

	"github.com/mailcrane/mailcrane/outbox"
)

// Timeouts bound the single steps of a dialogue. A zero field has its default,
// the one of RFC 5321 section 4.5.3.2.
type Timeouts struct {
	Connect  time.Duration // TCP connect, and a TLS handshake; default 30 s
	Greeting time.Duration // the relay's first words; default 5 min
	Command  time.Duration // EHLO, STARTTLS, AUTH, MAIL, RCPT, RSET, each; default 5 min
	Data     time.Duration // the go-ahead after DATA; default 2 min
	Block    time.Duration // taking one block of 64 KiB of the body; default 3 min
	Dot      time.Duration // the answer after the end of the data; default 10 min
}

func (t Timeouts) withDefaults() Timeouts {
	return Timeouts{
		Connect:  defaultTo(t.Connect, 30*time.Second),
		Greeting: defaultTo(t.Greeting, 5*time.Minute),
		Command:  defaultTo(t.Command, 5*time.Minute),
		Data:     defaultTo(t.Data, 2*time.Minute),
		Block:    defaultTo(t.Block, 3*time.Minute),
		Dot:      defaultTo(t.Dot, 10*time.Minute),
	}
}

// defaultTo gives d, or fallback where d is not a positive duration.
func defaultTo[T int | time.Duration](d, fallback T) T {
	if d <= 0 {
		return fallback
	}
	return d
}

// dialer opens connections to the relay.
type dialer struct {
	relay     Relay
	localName string // for EHLO
	tls       *tls.Config
	timeouts  Timeouts
}

// dial connects, and gives a connection that is ready for MAIL. The library's
// own dialling is not used: it leaks the socket when something fails after the
// TCP connect, and lets one deadline cover everything. Here the socket is ours
// from the first moment, and is closed on every failure and when ctx ends.
func (d *dialer) dial(ctx context.Context) (*conn, *failure) {
	tcp := net.Dialer{Timeout: d.timeouts.Connect}
	nc, err := tcp.DialContext(ctx, "tcp", d.relay.Addr())
	if err != nil && ctx.Err() != nil {
		err = givenUp(ctx)
	}
	if err != nil {
		return nil, &failure{phase: phaseConnect, reply: outbox.Reply{Relay: d.relay.Addr()}, err: err, ours: ctx.Err() != nil}
	}
	w := &wire{Conn: nc}
	stop := context.AfterFunc(ctx, func() { _ = w.Close() })
	client, err := d.shakeHands(ctx, w)
	if !stop() {
		_ = w.Close()
		return nil, &failure{phase: phaseConnect, reply: outbox.Reply{Relay: d.relay.Addr()}, err: givenUp(ctx), ours: true}
	}
	if err != nil {
		_ = w.Close()
		return nil, d.dialFailure(err)
	}
	return newConn(w, client, d.relay.Addr(), d.timeouts), nil
}

func givenUp(ctx context.Context) error {
	return fmt.Errorf("given up: %w", context.Cause(ctx))
}

// shakeHands goes from the open socket to a session: greeting, EHLO, TLS, AUTH.
func (d *dialer) shakeHands(ctx context.Context, w *wire) (*smtp.Client, error) {
	var nc net.Conn = w
	if d.relay.encryption == implicitTLS {
		if err := w.SetDeadline(time.Now().Add(d.timeouts.Connect)); err != nil {
			return nil, err
		}
		secure := tls.Client(w, d.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, tlsError(&stepError{"TLS", err})
		}
		nc = secure // as it is: the library looks for exactly this type
	}
	if err := w.SetDeadline(time.Now().Add(d.timeouts.Greeting)); err != nil {
		return nil, err
	}
	client, err := smtp.NewClient(nc, d.relay.host)
	if err != nil {
		return nil, &stepError{"greeting", err}
	}
	if err := w.SetDeadline(time.Now().Add(d.timeouts.Command)); err != nil {
		return nil, err
	}
	if err := client.Hello(d.localName); err != nil {
		return nil, &stepError{"EHLO", err}
	}
	if err := d.secure(client); err != nil {
		return nil, err
	}
	if err := w.SetDeadline(time.Now().Add(d.timeouts.Command)); err != nil {
		return nil, err
	}
	if err := login(client, d.relay); err != nil {
		return nil, &stepError{"AUTH", err}
	}
	return client, nil
}

// secure runs STARTTLS where it is required. What the relay said before, its
// extensions and any bytes it slipped in, the library throws away.
func (d *dialer) secure(client *smtp.Client) error {
	if d.relay.encryption != startTLS {
		return nil
	}
	if offered, _ := client.Extension("STARTTLS"); !offered {
		return fmt.Errorf("%w: it does not offer STARTTLS; for a relay without encryption add tls=none to its URL", ErrRefused)
	}
	if err := client.StartTLS(d.tls); err != nil {
		return tlsError(&stepError{"STARTTLS", err})
	}
	return nil
}

// tlsError says that a certificate which does not hold is nothing that time
// heals: an operator has to look.
func tlsError(err error) error {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// stepError says in which step of the handshake err came up.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// dialFailure takes the relay's answer, if it was one, out of the library's
// error, and cleans what may quote the relay.
func (d *dialer) dialFailure(err error) *failure {
	f := &failure{phase: phaseConnect, reply: outbox.Reply{Relay: d.relay.Addr()}, err: err}
	answer, answered := errors.AsType[*textproto.Error](err)
	switch {
	case answered:
		f.reply.Code = answer.Code
		var text strings.Builder
		for line := range strings.SplitSeq(answer.Msg, "\n") {
			enhanced, rest := cutEnhanced(answer.Code, line)
			f.reply.Enhanced = cmp.Or(f.reply.Enhanced, enhanced)
			text.WriteString(rest + " ")
		}
		f.reply.Text = clean(text.String())
		f.err = replyError(f.reply)
		if at, ok := errors.AsType[*stepError](err); ok {
			f.err = &stepError{at.step, f.err}
		}
	case !isOurs(err):
		f.err = errors.New(clean(err.Error()))
	}
	return f
}

// isOurs reports whether err comes from here, the network or TLS, and not from
// the relay's mouth.
func isOurs(err error) bool {
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	return errors.Is(err, ErrRefused) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
