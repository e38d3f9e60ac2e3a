package sender_test

import (
	"context"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/sender"
)

// BenchmarkSend sends messages to a relay that only says yes, over warm
// connections: rendering, building and the dialogue on loopback. behind/op is the
// share of envelopes that came with the dot of the message before.
func BenchmarkSend(b *testing.B) {
	for _, bench := range []struct {
		name       string
		senders    int // for each core
		handover   time.Duration
		extensions []string
	}{
		{"pipelining", 1, 0, []string{"PIPELINING", "SIZE 10240000"}},
		{"step by step", 1, 0, []string{"SIZE 10240000"}},
		{"many at a time", 100, 0, []string{"PIPELINING", "SIZE 10240000"}},
		{"many at a time with slow handovers", 200, 3 * time.Millisecond, []string{"PIPELINING", "SIZE 10240000"}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			relay := startLeanRelay(b, &leanRelay{}, bench.extensions...)
			b.SetParallelism(bench.senders)
			sendAll(b, relay, bench.handover)
			b.ReportMetric(float64(relay.behind.Load())/float64(relay.mails.Load()), "behind/op")
		})
	}
}

// BenchmarkSend_farRelay sends to a relay 20 ms away: what counts is how often
// the way is gone.
func BenchmarkSend_farRelay(b *testing.B) {
	relay := startLeanRelay(b, &leanRelay{distance: 20 * time.Millisecond}, "PIPELINING", "SIZE 10240000")
	b.SetParallelism(100)
	sendAll(b, relay, 2*time.Millisecond, func(c *sender.EmailConfig) { c.Connections = 16 })
}

// sendAll sends b.N messages, with handovers that take their time.
func sendAll(b *testing.B, relay *leanRelay, takes time.Duration, change ...func(*sender.EmailConfig)) {
	b.Helper()
	email := newEmail(b, relay.url, change...)
	m := invitation("ada@example.com")
	handover := func(context.Context, string) error {
		if takes > 0 {
			<-time.After(takes)
		}
		return nil
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := email.Send(context.Background(), m, handover); err != nil {
				b.Error(err)
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "mails/s")
	_ = email.Close()
}
