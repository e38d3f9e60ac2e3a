package sender

import (
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
)

// BenchmarkRender fills the three parts of one invitation.
func BenchmarkRender(b *testing.B) {
	templates, err := LoadTemplates(nil)
	if err != nil {
		b.Fatal(err)
	}
	m := &outbox.Message{Template: "invitation", Locale: "de", Data: map[string]any{
		"group_name": "Analytical Engine Club", "inviter_name": "Charles",
		"link": "https://app.example.com/accept?token=abc", "expires_at": "2026-11-30T13:00:00Z",
	}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := templates.render(m); err != nil {
			b.Fatal(err)
		}
	}
}
