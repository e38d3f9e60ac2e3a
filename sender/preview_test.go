package sender

import (
	"slices"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
)

func TestTemplates_canBeLookedAt(t *testing.T) {
	t.Parallel()
	templates, err := LoadTemplates(nil)
	if err != nil {
		t.Fatal(err)
	}
	names := templates.Names()
	for _, name := range []string{"invitation", "invitation-reminder", "verify"} {
		if !slices.Equal(names[name], []string{"de", "en"}) {
			t.Errorf("%s: %v", name, names[name])
		}
	}
	m := &outbox.Message{Template: "verify", Locale: "de-AT", Recipient: "ada@example.com", Data: map[string]any{"data": map[string]any{"link": "https://example.com/1?a=b&c=d"}}}
	subject, text, html, err := templates.Render(m)
	if err != nil || subject == "" || !strings.Contains(text, "https://example.com/1?a=b&c=d") || !strings.Contains(html, `href="https://example.com/1?a=b&amp;c=d"`) {
		t.Errorf("%q, %q, %q, %v", subject, text, html, err)
	}
	m.Data = nil
	if _, _, _, err := templates.Render(m); err == nil || !strings.Contains(err.Error(), `no entry for key "link"`) {
		t.Errorf("without what it wants: %v", err)
	}
}
