package sender

import (
	"bytes"
	"html/template"
	"net/mail"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/mailcrane/mailcrane/outbox"
)

// Whatever stands in the place of names, the HTML has the elements that the template
// has, and leads where the link does.
func FuzzTemplateData(f *testing.F) {
	templates := embeddedTemplates(f)
	for _, text := range []string{
		"Ada", "<script>alert(1)</script>", `"><a href="https://evil.example">`, "javascript:alert(1)", "https://evil.example/", "' onmouseover='x", "{{.link}}", "<!--", "]]>", "</title>",
		"\u202e\u0000\ufeff", "&lt;a&gt;", "</p></body>", "<base href=//evil.example>", "<a\nhref=x>", "\xff", "https://example.com/%41%zz%", "httpsx://a", "//evil.example",
	} {
		f.Add(text, text, "https://example.com/join?a=1&b="+text)
		f.Add("Club", "Ada", text)
	}
	f.Fuzz(func(t *testing.T, group, inviter, link string) {
		for name, locale := range map[string]string{"invitation": "en", "invitation-reminder": "de", "verify": "de"} {
			elements := func(group, inviter, link string) (names, hrefs []string) {
				m := &outbox.Message{Template: name, Locale: locale, Recipient: "ada@example.com", Data: map[string]any{
					"group_id": "42", "group_name": group, "email": "ada@example.com", "inviter_id": "7", "inviter_name": inviter,
					"link": link, "expires_at": "2030-01-31T09:00:00Z", "data": map[string]any{"link": link, "app_name": group},
				}}
				subject, _, page, err := templates.Render(m)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if strings.ContainsAny(subject, "\r\n") {
					t.Errorf("%s: the subject has several lines: %q", name, subject)
				}
				tree, err := html.Parse(strings.NewReader(page))
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				for node := range tree.Descendants() {
					if node.Type != html.ElementNode {
						continue
					}
					names = append(names, node.Data)
					for _, attribute := range node.Attr {
						if strings.HasPrefix(attribute.Key, "on") || attribute.Key == "src" {
							t.Errorf("%s: %s=%q", name, attribute.Key, attribute.Val)
						}
						if attribute.Key == "href" {
							hrefs = append(hrefs, attribute.Val)
						}
					}
				}
				return names, hrefs
			}
			// A name that is missing is another text: compare with one that is there.
			plain := func(s string) string {
				if strings.TrimSpace(s) == "" {
					return s
				}
				return "x"
			}
			wantNames, places := elements(plain(group), plain(inviter), "https://example.com/")
			names, hrefs := elements(group, inviter, link)
			if !slices.Equal(names, wantNames) {
				t.Errorf("%s: elements %v instead of %v, links %q", name, names, wantNames, hrefs)
			}
			// The template has the link in some places and addresses of its own in others.
			want := slices.Clone(places)
			for i, place := range places {
				if place == "https://example.com/" {
					want[i] = hrefOf(t, link)
				}
			}
			if !slices.Equal(hrefs, want) {
				t.Errorf("%s: leads to %q instead of %q", name, hrefs, want)
			}
			if !slices.Contains(places, "https://example.com/") {
				t.Errorf("%s: has no link", name)
			}
		}
	})
}

// hrefOf is where a link leads in HTML, by what the standard library makes of it. What
// is no address of the web or of a mailbox leads nowhere.
func hrefOf(t *testing.T, link string) string {
	t.Helper()
	var page bytes.Buffer
	if err := template.Must(template.New("").Parse(`<a href="{{.}}">`)).Execute(&page, link); err != nil {
		t.Fatal(err)
	}
	tree, err := html.Parse(&page)
	if err != nil {
		t.Fatal(err)
	}
	for node := range tree.Descendants() {
		if node.Type == html.ElementNode && node.Data == "a" {
			href := node.Attr[0].Val
			scheme, _, absolute := strings.Cut(strings.ToLower(href), ":")
			if absolute && !strings.ContainsAny(scheme, "/?#") && !slices.Contains([]string{"http", "https", "mailto"}, scheme) {
				t.Errorf("the standard library takes %q", link)
			}
			return href
		}
	}
	t.Fatalf("no link to %q", link)
	return ""
}

// Whatever the data are, a mail has the header fields that it always has.
func FuzzHeader(f *testing.F) {
	e, _ := newPair(f, mailboxes[1], "", embeddedTemplates(f))
	for _, text := range []string{"Ada", "a\r\nBcc: eve@example.com", "a\nX: y", "a\rX: y", "=?utf-8?q?=0d=0aBcc:_x?=", strings.Repeat("ü", 300), "\x00", "\u2028Bcc: x", "a\r\n\r\nbody"} {
		f.Add(text, text, "en")
	}
	f.Fuzz(func(t *testing.T, group, inviter, locale string) {
		m := invitationIn("en")
		m.Locale = locale
		m.Data["group_name"], m.Data["inviter_name"] = group, inviter
		composed, err := e.Compose(m)
		if err != nil {
			return // refused, and not sent
		}
		parsed, err := mail.ReadMessage(bytes.NewReader(composed))
		if err != nil {
			t.Fatalf("%v in\n%s", err, composed)
		}
		for name, values := range parsed.Header {
			if !slices.Contains([]string{
				"Date", "From", "To", "Subject", "Message-Id", "Mime-Version", "Content-Type", "Content-Language", "Auto-Submitted", "X-Auto-Response-Suppress", "User-Agent", "X-Mailer",
			}, name) || len(values) != 1 {
				t.Errorf("header field %s: %q", name, values)
			}
		}
		if to := parsed.Header.Get("To"); to != "<"+m.Recipient+">" && to != m.Recipient {
			t.Errorf("it is to %q", to)
		}
	})
}
