package sender

import (
	"bufio"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mailcrane/mailcrane/outbox"
)

func TestReadReply(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 10_000)
	for _, test := range []struct {
		name, wire string
		want       outbox.Reply
	}{
		{"one line", "250 2.0.0 Ok: queued as 4711\r\n", outbox.Reply{Code: 250, Enhanced: "2.0.0", Text: "Ok: queued as 4711"}},
		{"several lines", "550-5.1.1 The account\r\n550-5.1.1 does not\r\n550 5.1.1 exist.\r\n", outbox.Reply{Code: 550, Enhanced: "5.1.1", Text: "The account does not exist."}},
		{"bare code", "250\r\n", outbox.Reply{Code: 250}},
		{"code and blank", "250 \r\n", outbox.Reply{Code: 250}},
		{"bare LF", "250 ok\n", outbox.Reply{Code: 250, Text: "ok"}},
		{"enhanced alone", "250 2.1.0\r\n", outbox.Reply{Code: 250, Enhanced: "2.1.0"}},
		{"enhanced of another class is text", "550 4.1.1 no\r\n", outbox.Reply{Code: 550, Text: "4.1.1 no"}},
		{"an IP address is no code", "250 2.0.0.1 hello\r\n", outbox.Reply{Code: 250, Text: "2.0.0.1 hello"}},
		{"a version is no code", "550 5.x.1 no\r\n", outbox.Reply{Code: 550, Text: "5.x.1 no"}},
		{"too large a detail", "550 5.1.1000 no\r\n", outbox.Reply{Code: 550, Text: "5.1.1000 no"}},
		{"addresses", "550 <Ada.L@example.com>: unknown, was \"a da\"@example.org, mailto:x=y@example.net\r\n",
			outbox.Reply{Code: 550, Text: "<***@example.com>: unknown, was ***@example.org, mailto:***@example.net"}},
		{"controls", "550 a\x1b[31mb\x00\tc\x7f\u202ed \r\n", outbox.Reply{Code: 550, Text: "a [31mb c d"}},
		{"bad UTF-8", "550 \xff\xfe\r\n", outbox.Reply{Code: 550, Text: "\uFFFD"}},
		{"a link that is a password", "554 blocked: https://app/accept?token=1&e=a@b.c\r\n", outbox.Reply{Code: 554, Text: "blocked: [link]"}},
		{"a very long line", "250 " + long + "\r\n", outbox.Reply{Code: 250, Text: long[:512]}},
	} {
		rest := "250 next\r\n"
		r := bufio.NewReader(strings.NewReader(test.wire + rest))
		got, err := readReply(r, "https://app/accept?token=1&e=a@b.c")
		if err != nil || got != test.want {
			t.Errorf("%s: %+v, %v; want %+v", test.name, got, err, test.want)
		}
		if left, _ := io.ReadAll(r); string(left) != rest {
			t.Errorf("%s: left over: %q", test.name, left)
		}
	}
}

func TestReadReply_refusesWhatIsNone(t *testing.T) {
	t.Parallel()
	for name, wire := range map[string]string{
		"nothing":          "",
		"half a line":      "250 ok",
		"half a reply":     "250-ok\r\n",
		"no code":          "hello\r\n",
		"empty line":       "\r\n",
		"two digits":       "25 ok\r\n",
		"four digits":      "2500 ok\r\n",
		"code 600":         "600 ok\r\n",
		"code 099":         "099 ok\r\n",
		"sign":             "+25 ok\r\n",
		"digits after":     "25x ok\r\n",
		"changing codes":   "250-ok\r\n550 no\r\n",
		"TLS alert":        "\x15\x03\x01\x00\x02\x02\x16\r\n",
		"endless lines":    strings.Repeat("250-ok\r\n", 10_000) + "250 ok\r\n",
		"one endless line": "250 " + strings.Repeat("x", 1<<20) + "\r\n",
	} {
		if got, err := readReply(bufio.NewReader(strings.NewReader(wire))); err == nil || got != (outbox.Reply{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func FuzzReadReply(f *testing.F) {
	f.Add("250-2.0.0 a\r\n250 2.0.0 <a@b>\r\n")
	f.Add("550 \xf0\x9f\x98\r\n")
	f.Fuzz(func(t *testing.T, wire string) {
		reply, err := readReply(bufio.NewReader(strings.NewReader(wire)))
		if err != nil {
			return
		}
		if reply.Code < 100 || reply.Code > 599 || len(reply.Text) > maxReplyText || !utf8.ValidString(reply.Text) ||
			strings.ContainsAny(reply.Text, "\r\n\x00\x1b") {
			t.Errorf("%q gives %+v", wire, reply)
		}
	})
}
