package sender

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail/smtp"

	"github.com/mailcrane/mailcrane/outbox"
)

// envelope is one message as the relay sees it: from and to of SMTP, and the
// bytes between DATA and the dot.
type envelope struct {
	flow     flow
	from, to string
	data     []byte   // CRLF lines, the last one complete; not yet dot-stuffed
	dotless  bool     // no line of data begins with a dot, so stuffing changes nothing
	secrets  []string // what a reply may quote and nobody should read
}

// domain is that of the recipient, in A-labels.
func (e envelope) domain() string { return e.to[strings.LastIndexByte(e.to, '@')+1:] }

// conn is a connection past greeting, TLS and AUTH. One goroutine uses it at a
// time.
//
// With PIPELINING the commands of an envelope go out in one write, and where the
// next message waits already, they go out with the dot of the one before: RFC
// 2920 section 3.1 allows both. A message then costs one round trip.
type conn struct {
	wire       *wire
	text       *textproto.Conn
	relay      string
	timeouts   Timeouts
	pipelining bool // RFC 2920
	size       bool // RFC 1870

	dialogue [4]step // of an envelope, RSET first

	since time.Time     // when it was opened
	mails int           // envelopes offered so far
	took  time.Duration // the last one that was accepted
	idle  *time.Timer   // closes it, while it waits in the pool

	clean bool // the last dialogue ended where a next one can begin
	reset bool // but needs a RSET first
	ahead bool // the last dialogue ended well, and the commands of the next envelope are sent already

	out []byte // commands, to be written at once
}

func newConn(w *wire, client *smtp.Client, relay string, timeouts Timeouts) *conn {
	c := &conn{wire: w, text: client.Text, relay: relay, timeouts: timeouts, since: time.Now(), clean: true}
	c.pipelining, _ = client.Extension("PIPELINING")
	c.size, _ = client.Extension("SIZE")
	c.dialogue = [...]step{
		{phaseReset, 2, timeouts.Command}, {phaseMail, 2, timeouts.Command},
		{phaseRcpt, 2, timeouts.Command}, {phaseData, 3, timeouts.Data},
	}
	return c
}

// send takes one envelope through the dialogue. Until handover it gives up when
// ctx ends; the relay's answer to the dot it awaits in any case. What next gives
// at the moment of the dot is offered behind it, if the relay can take it. The
// connection is clean or ahead afterwards, or of no use.
func (c *conn) send(ctx context.Context, e envelope, handover outbox.Handover, next func() *envelope) (outbox.Reply, *failure) {
	c.clean = false
	began := time.Now()
	stop := context.AfterFunc(ctx, func() { _ = c.wire.Close() })
	fail := c.offer(e)
	if !stop() {
		c.clean = false
		if fail == nil || fail.reply.Code == 0 {
			fail = &failure{phase: phaseData, err: givenUp(ctx), ours: true}
		}
		return outbox.Reply{}, fail
	}
	if fail != nil {
		return outbox.Reply{}, fail
	}
	if err := handover(ctx, c.relay); err != nil {
		return outbox.Reply{}, &failure{phase: phaseHandover, err: err, ours: true}
	}
	reply, fail := c.finish(e, next)
	c.took = time.Since(began)
	return reply, fail
}

// step is one command and the reply that lets the dialogue go on.
type step struct {
	phase   phase
	want    int // first digit of the reply (RFC 5321 section 4.2.1)
	timeout time.Duration
}

// commands appends those of the steps to b.
func (c *conn) commands(b []byte, e *envelope, steps []step) []byte {
	for _, s := range steps {
		switch s.phase {
		case phaseReset:
			b = append(b, "RSET"...)
		case phaseMail:
			b = append(append(append(b, "MAIL FROM:<"...), e.from...), '>')
			if c.size {
				b = strconv.AppendInt(append(b, " SIZE="...), int64(len(e.data)), 10)
			}
		case phaseRcpt:
			b = append(append(append(b, "RCPT TO:<"...), e.to...), '>')
		case phaseData:
			b = append(b, "DATA"...)
		}
		b = append(b, "\r\n"...)
	}
	return b
}

// offer does everything before the point of no return: the envelope, DATA and
// each byte of the message but the dot. With PIPELINING the commands go out in
// one write, if they did not go out behind the dot before.
func (c *conn) offer(e envelope) *failure {
	steps, ahead := c.dialogue[:], c.ahead
	if ahead || !c.reset {
		steps = steps[1:]
	}
	if c.ahead = false; !ahead {
		c.mails++
	}
	for i, s := range steps {
		switch {
		case ahead:
		// An error in writing is not looked at: the relay's last words may still be
		// there to read, and tell more.
		case !c.pipelining:
			c.out = c.commands(c.out[:0], &e, steps[i:i+1])
			_ = c.write(c.out, s.timeout)
		case i == 0:
			c.out = c.commands(c.out[:0], &e, steps)
			_ = c.write(c.out, s.timeout)
		}
		reply, err := c.read(s.timeout, e.secrets)
		if err != nil {
			return &failure{phase: s.phase, err: err, stale: s.phase <= phaseMail && !errors.Is(err, os.ErrDeadlineExceeded)}
		}
		if reply.Code/100 != s.want {
			dead := s.phase == phaseReset || s.phase == phaseMail && (reply.Code == 421 || ahead && c.reset && reply.Code == 503)
			if !dead {
				c.settle(reply, steps[i+1:])
			}
			return &failure{phase: s.phase, reply: reply, stale: dead}
		}
	}
	c.reset = false
	if err := c.writeBody(e); err != nil {
		return &failure{phase: phaseData, err: err}
	}
	return c.listen(phaseData, e)
}

// settle makes the connection fit for the next envelope after a refusal, if it
// can be done: the replies to pipelined commands are read, and the transaction
// is reset before the next use. A relay that says go ahead to a DATA without a
// recipient (RFC 2920 section 3.1 allows it) waits for a dot, and never gets one.
func (c *conn) settle(refusal outbox.Reply, rest []step) {
	const patience = 5 * time.Second
	if refusal.Code == 421 || refusal.Code/100 != 4 && refusal.Code/100 != 5 {
		return
	}
	if c.pipelining {
		for _, s := range rest {
			reply, err := c.read(min(patience, s.timeout), nil)
			if err != nil || reply.Code == 421 || reply.Code/100 == 3 {
				return
			}
		}
	}
	c.clean, c.reset = true, true
}

// writeBody sends the message, dot-stuffed (RFC 5321 section 4.5.2), to the last
// byte before the dot. Its first line is a header field and begins with no dot.
func (c *conn) writeBody(e envelope) error {
	const block = 64 << 10
	stuffed := e.data
	if !e.dotless {
		stuffed = bytes.ReplaceAll(e.data, []byte("\r\n."), []byte("\r\n.."))
	}
	for len(stuffed) > 0 {
		n := min(block, len(stuffed))
		if err := c.write(stuffed[:n], c.timeouts.Block); err != nil {
			return err
		}
		stuffed = stuffed[n:]
	}
	return nil
}

// finish sends the dot, and behind it the commands of the next envelope, if there
// is one. From here on only the relay's answer counts: neither a context, nor
// what happens to the connection afterwards.
func (c *conn) finish(e envelope, next func() *envelope) (outbox.Reply, *failure) {
	// The record took its time. A relay that has hung up meanwhile has certainly
	// not accepted anything, so do not make that an unknown.
	if fail := c.listen(phaseHandover, e); fail != nil {
		return outbox.Reply{}, fail
	}
	c.out = append(c.out[:0], ".\r\n"...)
	offered := false
	if c.pipelining && keepsWords {
		if following := next(); following != nil {
			offered = true
			c.mails++
			c.out = c.commands(c.out, following, c.dialogue[1:])
		}
	}
	if err := c.write(c.out, c.timeouts.Dot); err != nil {
		return outbox.Reply{}, &failure{phase: phaseDot, err: err}
	}
	reply, err := c.read(c.timeouts.Dot, e.secrets)
	if err != nil {
		return outbox.Reply{}, &failure{phase: phaseDot, err: err}
	}
	fit := false
	class := reply.Code / 100
	switch class {
	case 2:
		fit = true
	case 4, 5: // which clears the transaction (RFC 5321 section 4.1.1.4), but who knows
		fit, c.reset = reply.Code != 421, true
	}
	c.clean, c.ahead = fit && !offered, fit && offered
	if class != 2 {
		return outbox.Reply{}, &failure{phase: phaseDot, reply: reply}
	}
	return reply, nil
}

// listen reports what the relay has said out of turn, or that it hung up. Read
// after the dot, such a reply would pass for the answer to it.
func (c *conn) listen(p phase, e envelope) *failure {
	const blink = 100 * time.Millisecond
	if c.text.R.Buffered() == 0 {
		pending, err := c.wire.pending()
		if err != nil {
			return &failure{phase: p, err: err}
		}
		if !pending {
			return nil
		}
		// Below TLS that may be a record for TLS itself.
		c.wire.patience = blink
		if _, err := c.text.R.Peek(1); errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
	}
	reply, err := c.read(blink, e.secrets)
	if err == nil && reply.Code/100 != 4 && reply.Code/100 != 5 {
		err = fmt.Errorf("the relay spoke out of turn: %w", replyError(reply))
		reply = outbox.Reply{}
	}
	return &failure{phase: p, reply: reply, err: err}
}

// idleError reports why a connection that waits in the pool cannot be used
// again: the relay closed it, or said something nobody asked for.
func (c *conn) idleError() error {
	if fail := c.listen(phaseReset, envelope{}); fail != nil {
		return fail.sendError()
	}
	return nil
}

// write sends p within timeout.
func (c *conn) write(p []byte, timeout time.Duration) error {
	if err := c.wire.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := c.text.W.Write(p); err != nil {
		return err
	}
	return c.text.W.Flush()
}

// read waits up to timeout for a reply.
func (c *conn) read(timeout time.Duration, secrets []string) (outbox.Reply, error) {
	c.wire.patience = timeout
	return readReply(c.text.R, secrets...)
}

// quit takes leave of a connection between two messages (RFC 5321 section
// 4.1.1.10). It does not wait for the answer: there is nothing it could change.
func (c *conn) quit() {
	const patience = time.Second
	_ = c.write([]byte("QUIT\r\n"), patience)
	_ = c.wire.Close()
}

// abort closes the socket as it is. In the middle of a message anything more
// polite could end the data, and hand over half a mail.
func (c *conn) abort() { _ = c.wire.Close() }
