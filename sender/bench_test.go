package sender_test

import (
	"context"
	"testing"

	"github.com/mailcrane/mailcrane/sender"
)

// BenchmarkCompose renders and builds one invitation.
func BenchmarkCompose(b *testing.B) {
	email := newComposer(b)
	m := invitation("ada@example.com")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := email.Compose(m); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSend sends messages to a relay that only says yes, over warm
// connections: rendering, building and the dialogue on loopback.
func BenchmarkSend(b *testing.B) {
	for name, extensions := range map[string][]string{"pipelining": {"PIPELINING", "SIZE"}, "step by step": {"SIZE"}} {
		b.Run(name, func(b *testing.B) {
			p := startPeer(b, func(_ int, s *session) {
				s.greet(extensions...)
				for !s.ended() {
					s.accept()
					s.log.Reset()
				}
			})
			email := newEmail(b, p.url(), func(c *sender.EmailConfig) { c.MaxPerConnection = 1 << 30 })
			m := invitation("ada@example.com")
			handover := func(context.Context, string) error { return nil }
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := email.Send(context.Background(), m, handover); err != nil {
						b.Error(err)
					}
				}
			})
			_ = email.Close()
		})
	}
}
