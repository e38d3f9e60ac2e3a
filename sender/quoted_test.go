package sender

import (
	"bytes"
	"mime/quotedprintable"
	"strings"
	"testing"
)

func requireQuoted(t *testing.T, text string) {
	t.Helper()
	var want bytes.Buffer
	want.WriteString("before\r\n")
	w := quotedprintable.NewWriter(&want)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	got, dots := appendQuoted([]byte("before\r\n"), []byte(text))
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%q becomes\n%q, want\n%q", text, got, want.Bytes())
	}
	if dots != bytes.Contains(got, []byte("\r\n.")) {
		t.Errorf("%q: dots is %t", text, dots)
	}
}

func TestQuoted_isWhatTheLibraryWrites(t *testing.T) {
	t.Parallel()
	for _, end := range pieces {
		for length := range 90 {
			start := strings.Repeat("a", length)
			requireQuoted(t, start+end)
			requireQuoted(t, start+end+"\n")
			requireQuoted(t, start+end+" \r\n"+end)
			requireQuoted(t, end+start+"\xe9\n"+end+".")
			requireQuoted(t, strings.Repeat(end, length%40))
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	for b := range 256 {
		for _, at := range []int{0, 1, 7, 8, 9, 73, 74, 75, 76} {
			requireQuoted(t, strings.Repeat("x", at)+string([]byte{byte(b)})+strings.Repeat("y", 20))
			requireQuoted(t, strings.Repeat(string([]byte{byte(b)}), at))
		}
	}
}

func TestQuoted_isWhatTheLibraryWritesByChance(t *testing.T) {
	t.Parallel()
	byChance(t, 20000, func(t *testing.T, choices []byte) {
		requireQuoted(t, string(choices))
		c := &chooser{bytes: choices}
		requireQuoted(t, c.text()+c.text()+c.text())
	})
}

func FuzzQuoted(f *testing.F) {
	for _, text := range pieces {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { requireQuoted(t, text) })
}
