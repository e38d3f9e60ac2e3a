package sender

import (
	htmltemplate "html/template"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// chooser turns bytes into choices, so that the fuzzer and chance make test cases
// alike. When the bytes are used up, it takes what comes first.
type chooser struct{ bytes []byte }

func (c *chooser) below(n int) int {
	if len(c.bytes) == 0 {
		return 0
	}
	b := c.bytes[0]
	c.bytes = c.bytes[1:]
	return int(b) % n
}

func oneOf[T any](c *chooser, values []T) T { return values[c.below(len(values))] }

// byChance calls check with random bytes. A failure should print them: they can
// become a seed of the fuzz test.
func byChance(t *testing.T, times int, check func(t *testing.T, choices []byte)) {
	t.Helper()
	if testing.Short() {
		times /= 10
	}
	for range times {
		choices := make([]byte, rand.IntN(120))
		for i := range choices {
			choices[i] = byte(rand.Uint32())
		}
		check(t, choices)
		if t.Failed() {
			t.Fatalf("the choices were []byte(%q)", choices)
		}
	}
}

// pieces of text that are odd in one way or another.
var pieces = []string{
	"", "Club", "Ada Lovelace ", "O'Neil & Söhne", "<b>x</b>", "a+b", `"quoted"`, "tab\there", "line\r\nbreak", "\r", "\n",
	"\r\r\n", "\n\n.dot", ".", "..", "trailing \n", "trailing\t\r\n", " ", "  ", "\t", "=", "=?utf-8?q?x?=", "=?", "é", "ü",
	"日本語", "\ré", "\n\rü", "\xff\xfe", "\xc3", "\x00", "\x01", "\x7f", "\u2028", "\u0085", "\u00a0", "\uFFFD", "\uFFFE", "😀", "100%", "%zz", "%20",
	"%2", "(x)", "`", "\\", "{{.x}}", "#", "?q=1&r=2", ":", "/", "https://app.example.com/accept?token=abc&lang=x",
	"https://", "http://x.example/", "HTTPS://x", "javascript:alert(1)", "mailto:x@y", "https://bücher.example/", "--",
	"2026-11-30T13:00:00Z", "2026-03-01T00:30:00+01:00", "--mailcrane-", strings.Repeat("a", 74), strings.Repeat("b", 75),
	strings.Repeat("c", 76), strings.Repeat("d", 77), strings.Repeat("wörter ", 30), strings.Repeat("words ", 40),
	strings.Repeat("ä", 100), strings.Repeat("long", 250), strings.Repeat("x", 60) + " " + strings.Repeat("y", 10) + " ",
}

func (c *chooser) text() string {
	var b strings.Builder
	for range c.below(5) {
		b.WriteString(oneOf(c, pieces))
	}
	return b.String()
}

type stringer struct{}

func (stringer) String() string { return "<stringer>" }

// value is mostly a text.
func (c *chooser) value() any {
	switch c.below(24) {
	case 0:
		return nil
	case 1:
		return c.below(2) == 1
	case 2:
		return oneOf(c, []float64{0, math.Copysign(0, -1), 1, -7, 1.5, 3e9, 1e21, 1 << 53, 1<<53 - 1, math.NaN(), math.Inf(1)})
	case 3:
		return oneOf(c, []any{7, int64(-7), uint8(7), []any{}, []any{"x", nil}, stringer{}, &stringer{}, (*stringer)(nil),
			map[string]string{"a": "b"}, htmltemplate.HTML("<i>"), htmltemplate.URL("x:y"), errTest{}, []byte("bytes"), 'x'})
	case 4:
		return time.Date(2026, 3, 1, 0, 30, 0, 0, time.FixedZone("", 3600))
	case 5:
		return c.object()
	case 6, 7:
		return oneOf(c, []string{"2026-11-30T13:00:00Z", "https://app.example.com/?a=b&c=%20d", "Club", ""})
	default:
		return c.text()
	}
}

type errTest struct{}

func (errTest) Error() string { return "an <error>" }

func (c *chooser) object() map[string]any {
	o := map[string]any{"gone": nil}
	for range c.below(4) {
		o[oneOf(c, []string{"a", "b", "link", "app_name"})] = c.value()
	}
	return o
}
