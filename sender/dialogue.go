package sender

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/textproto"
	"os"
	"strings"
	"time"

	"github.com/wneessen/go-mail/smtp"

	"github.com/mailcrane/mailcrane/outbox"
)

// envelope is one message as the relay sees it: from and to of SMTP, and the
// bytes between DATA and the dot.
type envelope struct {
	from, to string
	data     []byte   // CRLF lines, the last one complete; not yet dot-stuffed
	secrets  []string // what a reply may quote and nobody should read
}

// domain is that of the recipient, in A-labels.
func (e envelope) domain() string { return e.to[strings.LastIndexByte(e.to, '@')+1:] }

// conn is a connection past greeting, TLS and AUTH. One goroutine uses it at a
// time.
type conn struct {
	wire       *wire
	text       *textproto.Conn
	relay      string
	timeouts   Timeouts
	pipelining bool // RFC 2920
	size       bool // RFC 1870

	since time.Time   // when it was opened
	mails int         // envelopes offered so far
	idle  *time.Timer // closes it, while it waits in the pool

	clean bool // the last dialogue ended where a next one can begin
	reset bool // but needs a RSET first
}

func newConn(w *wire, client *smtp.Client, relay string, timeouts Timeouts) *conn {
	c := &conn{wire: w, text: client.Text, relay: relay, timeouts: timeouts, since: time.Now(), clean: true}
	c.pipelining, _ = client.Extension("PIPELINING")
	c.size, _ = client.Extension("SIZE")
	return c
}

// send takes one envelope through the dialogue. Until handover it gives up when
// ctx ends; the relay's answer to the dot it awaits in any case. The connection
// is clean afterwards, or of no use.
func (c *conn) send(ctx context.Context, e envelope, handover outbox.Handover) (outbox.Reply, *failure) {
	c.clean = false
	c.mails++
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
	return c.finish(e)
}

// step is one command and the reply that lets the dialogue go on.
type step struct {
	phase   phase
	command string
	want    int // first digit of the reply (RFC 5321 section 4.2.1)
	timeout time.Duration
}

func (c *conn) steps(e envelope) []step {
	size := ""
	if c.size {
		size = fmt.Sprintf(" SIZE=%d", len(e.data))
	}
	steps := make([]step, 0, 4)
	if c.reset {
		steps = append(steps, step{phaseReset, "RSET\r\n", 2, c.timeouts.Command})
	}
	return append(steps,
		step{phaseMail, "MAIL FROM:<" + e.from + ">" + size + "\r\n", 2, c.timeouts.Command},
		step{phaseRcpt, "RCPT TO:<" + e.to + ">\r\n", 2, c.timeouts.Command},
		step{phaseData, "DATA\r\n", 3, c.timeouts.Data},
	)
}

// offer does everything before the point of no return: the envelope, DATA and
// each byte of the message but the dot. With PIPELINING the commands go out in
// one write.
func (c *conn) offer(e envelope) *failure {
	steps := c.steps(e)
	for i, s := range steps {
		switch {
		// An error in writing is not looked at: the relay's last words may still be
		// there to read, and tell more.
		case !c.pipelining:
			_ = c.write([]byte(s.command), s.timeout)
		case i == 0:
			_ = c.write(commands(steps), s.timeout)
		}
		reply, err := c.read(s.timeout, e.secrets)
		if err != nil {
			return &failure{phase: s.phase, err: err, stale: s.phase <= phaseMail && !errors.Is(err, os.ErrDeadlineExceeded)}
		}
		if reply.Code/100 != s.want {
			dead := s.phase == phaseReset || s.phase == phaseMail && reply.Code == 421
			if !dead {
				c.settle(reply, steps[i+1:])
			}
			return &failure{phase: s.phase, reply: reply, stale: dead}
		}
	}
	c.reset = false
	if err := c.writeBody(e.data); err != nil {
		return &failure{phase: phaseData, err: err}
	}
	return c.listen(phaseData, e)
}

func commands(steps []step) []byte {
	var all []byte
	for _, s := range steps {
		all = append(all, s.command...)
	}
	return all
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
func (c *conn) writeBody(data []byte) error {
	const block = 64 << 10
	stuffed := bytes.ReplaceAll(data, []byte("\r\n."), []byte("\r\n.."))
	for len(stuffed) > 0 {
		n := min(block, len(stuffed))
		if err := c.write(stuffed[:n], c.timeouts.Block); err != nil {
			return err
		}
		stuffed = stuffed[n:]
	}
	return nil
}

// finish sends the dot. From here on only the relay's answer counts: neither a
// context, nor what happens to the connection afterwards.
func (c *conn) finish(e envelope) (outbox.Reply, *failure) {
	// The record took its time. A relay that has hung up meanwhile has certainly
	// not accepted anything, so do not make that an unknown.
	if fail := c.listen(phaseHandover, e); fail != nil {
		return outbox.Reply{}, fail
	}
	if err := c.write([]byte(".\r\n"), c.timeouts.Dot); err != nil {
		return outbox.Reply{}, &failure{phase: phaseDot, err: err}
	}
	reply, err := c.read(c.timeouts.Dot, e.secrets)
	if err != nil {
		return outbox.Reply{}, &failure{phase: phaseDot, err: err}
	}
	switch reply.Code / 100 {
	case 2:
		c.clean = true
		return reply, nil
	case 4, 5:
		c.clean, c.reset = reply.Code != 421, true
	}
	return outbox.Reply{}, &failure{phase: phaseDot, reply: reply}
}

// listen reports what the relay has said out of turn, or that it hung up. Read
// after the dot, such a reply would pass for the answer to it.
func (c *conn) listen(p phase, e envelope) *failure {
	const blink = 100 * time.Millisecond
	if c.text.R.Buffered() == 0 {
		_ = c.wire.SetDeadline(time.Time{}) // an old one would answer in the relay's place
		pending, err := c.wire.pending()
		if err != nil {
			return &failure{phase: p, err: err}
		}
		if !pending {
			return nil
		}
		// Below TLS that may be a record for TLS itself.
		_ = c.wire.SetReadDeadline(time.Now().Add(blink))
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
	if err := c.wire.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := c.text.W.Write(p); err != nil {
		return err
	}
	return c.text.W.Flush()
}

// read waits up to timeout for a reply.
func (c *conn) read(timeout time.Duration, secrets []string) (outbox.Reply, error) {
	if err := c.wire.SetDeadline(time.Now().Add(timeout)); err != nil {
		return outbox.Reply{}, err
	}
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
