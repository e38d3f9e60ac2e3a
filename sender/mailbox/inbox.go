package mailbox

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed pages/*.html pages/*.css
var pages embed.FS

// Handler serves the mailbox under /inbox.
//
//	GET    /inbox                      the list, for people
//	GET    /inbox/mail/{id}            one mail: HTML, text, headers, raw
//	GET    /inbox/messages?to=&limit=  the list as JSON, newest first
//	GET    /inbox/messages/{id}        one mail as JSON
//	DELETE /inbox/messages             forgets all
//
// The HTML of a mail is shown in a frame of its own, without scripts, forms and
// pictures from elsewhere: it comes from anybody.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /inbox", s.showList)
	mux.HandleFunc("GET /inbox/{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/inbox", http.StatusFound) })
	mux.HandleFunc("GET /inbox/style.css", showStyle)
	mux.HandleFunc("GET /inbox/mail/{id}", s.withMail(showMail))
	mux.HandleFunc("GET /inbox/mail/{id}/html", s.withMail(showHTML))
	mux.HandleFunc("GET /inbox/mail/{id}/raw", s.withMail(showRaw))
	mux.HandleFunc("GET /inbox/messages", s.listJSON)
	mux.HandleFunc("GET /inbox/messages/{id}", s.withMail(mailJSON))
	mux.HandleFunc("DELETE /inbox/messages", s.deleteAll)
	mux.HandleFunc("POST /inbox/delete", s.deleteAndReturn)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-store")
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		if refusal, pattern := mux.Handler(r); pattern == "" {
			refuse(w, r, refusal)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// refuse says in our form what the multiplexer would say in its own: there is no
// such page, or not with this method.
func refuse(w http.ResponseWriter, r *http.Request, refusal http.Handler) {
	said := &statusOnly{header: w.Header()} // with Allow, where it belongs
	refusal.ServeHTTP(said, r)
	if said.status == http.StatusMethodNotAllowed {
		problem(w, said.status, "the inbox does not do that: see the header Allow")
		return
	}
	problem(w, http.StatusNotFound, "there is no such page in the inbox")
}

// statusOnly is a response whose body nobody reads.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) WriteHeader(status int)      { s.status = cmp.Or(s.status, status) }
func (s *statusOnly) Write(p []byte) (int, error) { return len(p), nil }

// render parses its templates each time: a page is seldom asked for.
func render(w http.ResponseWriter, name string, data any) {
	page, err := template.New("").Funcs(template.FuncMap{
		"clock":  func(t time.Time) string { return t.Local().Format("15:04:05") },
		"moment": func(t time.Time) string { return t.Local().Format("2 January 2006, 15:04:05 MST") },
		"iso":    func(t time.Time) string { return t.Format(time.RFC3339) },
		"join":   func(list []string) string { return strings.Join(list, ", ") },
	}).ParseFS(pages, "pages/*.html")
	var body bytes.Buffer
	if err == nil {
		err = page.ExecuteTemplate(&body, name, data)
	}
	if err != nil {
		problem(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(body.Bytes()) // the reader may have gone
}

func (s *Server) showList(w http.ResponseWriter, r *http.Request) {
	mails := s.Mails("")
	slices.Reverse(mails)
	render(w, "list.html", struct {
		Mails []Mail
		Host  string
	}{mails, r.Host})
}

func showStyle(w http.ResponseWriter, _ *http.Request) {
	style, _ := pages.ReadFile("pages/style.css") // it is embedded
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	_, _ = w.Write(style)
}

// withMail finds the mail that the path names.
func (s *Server) withMail(show func(http.ResponseWriter, *http.Request, Mail)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		m, found := s.store.get(r.PathValue("id"))
		if !found {
			problem(w, http.StatusNotFound, "there is no such mail, or no longer: the inbox is kept in memory")
			return
		}
		show(w, r, m)
	}
}

func showMail(w http.ResponseWriter, _ *http.Request, m Mail) {
	header, _, _ := bytes.Cut(m.Raw, []byte("\r\n\r\n"))
	render(w, "mail.html", struct {
		Mail
		Sender    string
		RawHeader string
		Size      int
	}{m, cmp.Or(decode(m.Header.Get("From")), m.From), string(header), len(m.Raw)})
}

// showHTML serves what is shown in the frame. Its policy holds for whoever opens
// it on its own, too.
func showHTML(w http.ResponseWriter, _ *http.Request, m Mail) {
	w.Header().Set("Content-Security-Policy",
		"default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox allow-popups allow-popups-to-escape-sandbox; frame-ancestors 'self'")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = fmt.Fprintf(w, "<!doctype html><base target=_blank>%s", m.HTML) // a doctype of the mail itself would come too late
}

func showRaw(w http.ResponseWriter, _ *http.Request, m Mail) {
	w.Header().Set("Content-Type", "message/rfc822")
	w.Header().Set("Content-Disposition", `attachment; filename="mail-`+m.ID+`.eml"`)
	_, _ = w.Write(m.Raw)
}

// summary is a mail in the JSON list; document is one with its content.
type summary struct {
	ID         string    `json:"id"`
	From       string    `json:"from"`
	To         []string  `json:"to"`
	Subject    string    `json:"subject"`
	MessageID  string    `json:"header_message_id"`
	ReceivedAt time.Time `json:"received_at"`
	Size       int       `json:"size"`
}

type document struct {
	summary
	Headers map[string][]string `json:"headers"`
	Text    string              `json:"text"`
	HTML    string              `json:"html"`
	Raw     string              `json:"raw"`
}

func summarize(m Mail) summary {
	return summary{m.ID, m.From, m.To, m.Subject, m.MessageID, m.ReceivedAt, len(m.Raw)}
}

func (s *Server) listJSON(w http.ResponseWriter, r *http.Request) {
	limit := 100
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1000 {
			problem(w, http.StatusUnprocessableEntity, "limit is not a whole number from 1 to 1000")
			return
		}
		limit = n
	}
	mails := s.Mails(r.URL.Query().Get("to"))
	slices.Reverse(mails)
	list := []summary{}
	for _, m := range mails[:min(limit, len(mails))] {
		list = append(list, summarize(m))
	}
	writeJSON(w, http.StatusOK, "application/json", map[string]any{"messages": list})
}

func mailJSON(w http.ResponseWriter, _ *http.Request, m Mail) {
	writeJSON(w, http.StatusOK, "application/json", document{summarize(m), m.Header, m.Text, m.HTML, string(m.Raw)})
}

func (s *Server) deleteAll(w http.ResponseWriter, _ *http.Request) {
	s.Delete()
	w.WriteHeader(http.StatusNoContent)
}

// deleteAndReturn is what the button of the page does. A form of another site
// cannot press it: browsers say where a form comes from.
func (s *Server) deleteAndReturn(w http.ResponseWriter, r *http.Request) {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		problem(w, http.StatusForbidden, "only the inbox itself may do that")
		return
	}
	s.Delete()
	http.Redirect(w, r, "/inbox", http.StatusSeeOther)
}

// problem answers with a problem document (RFC 9457).
func problem(w http.ResponseWriter, status int, detail string) {
	writeJSON(w, status, "application/problem+json", map[string]any{
		"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail,
	})
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the reader may have gone
}
