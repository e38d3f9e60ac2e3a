package sender

import (
	"bytes"
	"mime/quotedprintable"
	"strings"
	"testing"
)

// The benchmarks come in pairs, so that the ratio does not depend on the machine.

// BenchmarkRender fills the three parts of one invitation. The fast one also
// encodes them.
func BenchmarkRender(b *testing.B) {
	email, reference := benchmarkPair(b)
	for _, locale := range []string{"en", "de"} {
		m := invitationIn(locale)
		b.Run(locale+"/fast", func(b *testing.B) {
			var memory buffer
			b.ReportAllocs()
			for b.Loop() {
				if _, err := email.templates.render(&memory, m); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(locale+"/reference", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, _, err := reference.render(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCompose renders and builds one invitation, as Send does.
func BenchmarkCompose(b *testing.B) {
	email, reference := benchmarkPair(b)
	for _, locale := range []string{"en", "de"} {
		m := invitationIn(locale)
		b.Run(locale+"/fast", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buf := email.buffers.take()
				if _, err := email.compose(m, buf); err != nil {
					b.Fatal(err)
				}
				email.buffers.giveBack(buf)
			}
		})
		b.Run(locale+"/reference", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := reference.compose(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkQuotedPrintable encodes the HTML part of one invitation.
func BenchmarkQuotedPrintable(b *testing.B) {
	_, reference := benchmarkPair(b)
	_, _, html, err := reference.render(invitationIn("de"))
	if err != nil {
		b.Fatal(err)
	}
	text := []byte(html)
	b.Run("fast", func(b *testing.B) {
		var out []byte
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			out, _ = appendQuoted(out[:0], text)
		}
	})
	b.Run("reference", func(b *testing.B) {
		var out bytes.Buffer
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			out.Reset()
			w := quotedprintable.NewWriter(&out)
			_, _ = w.Write(text)
			_ = w.Close()
		}
	})
}

// BenchmarkAddress looks at an ordinary recipient.
func BenchmarkAddress(b *testing.B) {
	for name, f := range map[string]func(string) (string, error){"fast": asciiAddress, "reference": referenceAddress} {
		b.Run(name, func(b *testing.B) {
			address := strings.Clone("ada.lovelace@mail.example.com")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f(address); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchmarkPair(b *testing.B) (*Email, reference) {
	b.Helper()
	templates, err := LoadTemplates(nil)
	if err != nil {
		b.Fatal(err)
	}
	return newPair(b, "Engine Club <club@example.com>", "[Engine]", templates)
}
