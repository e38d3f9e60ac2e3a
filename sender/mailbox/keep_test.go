package mailbox_test

import (
	"errors"
	"io"
	"testing"

	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// A chunk that is cut off would look like a whole one.
func TestMailbox_takesNoChunks(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{})
	c := dial(t, box)
	c.expect("", "220", "EHLO test", "250", "MAIL FROM:<a@example.com>", "250", "RCPT TO:<b@example.com>", "250")
	c.expect("BDAT 1000 LAST\r\nSubject: x\r\n\r\nQUIT", "502")
	if _, err := c.ReadLine(); err == nil {
		t.Error("the content of a chunk was taken for commands")
	}
	if n := len(box.Mails("")); n != 0 {
		t.Errorf("kept %d incomplete mails", n)
	}
}

func TestMailbox_keepSeesAMailBeforeTheClientIsTold(t *testing.T) {
	t.Parallel()
	full := errors.New("the disk is full")
	var kept []string
	box := mailbox.Start(t, mailbox.Config{Capacity: -1, Keep: func(from string, to []string, raw []byte) error {
		if len(kept) == 1 {
			return full
		}
		kept = append(kept, from+" "+to[0]+" "+string(raw))
		return nil
	}})
	c := dial(t, box)
	c.envelope("b@example.com")
	c.expect("Subject: x\r\n\r\nHello\r\n.", "250")
	c.expect("MAIL FROM:<a@example.com>", "250", "RCPT TO:<c@example.com>", "250", "DATA", "354", "Subject: y\r\n\r\nHello\r\n.", "451")
	if len(kept) != 1 || kept[0] != "a@example.com b@example.com Subject: x\r\n\r\nHello\r\n" {
		t.Errorf("%q", kept)
	}
	if n := len(box.Mails("")); n != 0 {
		t.Errorf("%d mails in memory", n)
	}
}

func TestMailbox_faultsComeAndGo(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{})
	remove := box.Inject(mailbox.Fault{At: mailbox.MailFrom, Reply: "451 4.3.0 later"})
	c := dial(t, box)
	c.expect("", "220", "EHLO test", "250", "MAIL FROM:<a@example.com>", "451")
	remove()
	c.expect("MAIL FROM:<a@example.com>", "250")
}

func TestMailbox_canBeDown(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{})
	c := dial(t, box)
	c.expect("", "220")
	box.SetDown(true)
	if _, err := c.ReadLine(); err == nil {
		t.Error("the connection is not cut")
	}
	if _, err := io.ReadAll(dial(t, box).raw); err != nil && !errors.Is(err, io.EOF) {
		t.Log(err) // reset, which is as good
	}
	box.SetDown(false)
	dial(t, box).expect("", "220")
}
