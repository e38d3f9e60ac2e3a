package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// JoinPath is where the hosted page is, below the address of the API. {token} stands
// for the token, as in [outbox.RelayConfig].
const JoinPath = "/join/{token}"

// joinPage shows who is invited to what, and takes the answer. To look changes
// nothing, however often and by whatever follows links in mails: only a form that
// is sent does. Who has the token may answer, so nothing else is asked for.
type joinPage struct {
	*server
	page   *template.Template
	next   string // where to go after accepting, or empty
	policy string // of the content
}

//go:embed join.html
var joinHTML string

// registerJoin puts the page on mux.
func (s *server) registerJoin(mux *http.ServeMux, next string) error {
	page, err := template.New("join").Parse(joinHTML)
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	_, style, _ := strings.Cut(joinHTML, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	hash := sha256.Sum256([]byte(style))
	forms := "'self'"
	if next != "" {
		target, err := url.Parse(next)
		if err != nil || target.Host == "" {
			return errors.New("api: where to go after accepting is not a web address")
		}
		forms += " " + target.Scheme + "://" + target.Host // a form may not lead elsewhere, even by way of us
	}
	p := &joinPage{server: s, page: page, next: next, policy: fmt.Sprintf(
		"default-src 'none'; style-src 'sha256-%s'; form-action %s; frame-ancestors 'none'; base-uri 'none'", base64.StdEncoding.EncodeToString(hash[:]), forms)}
	mux.HandleFunc("GET "+JoinPath, p.show)
	mux.HandleFunc("POST "+JoinPath, p.answer)
	return nil
}

func (p *joinPage) show(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	record, err := outbox.Verify(ctx, p.pool, r.PathValue("token"))
	if err != nil {
		p.fail(w, r, err)
		return
	}
	status := standing(record)
	code := http.StatusOK
	if status == "revoked" || status == "expired" {
		code = http.StatusGone
	}
	p.write(w, code, wordsFor(record.Locale), status, record)
}

// answer accepts or declines, and leads to what shows that.
func (p *joinPage) answer(w http.ResponseWriter, r *http.Request) {
	finish, next := outbox.Accept, p.next
	limitBody(w, r, 1<<10)
	switch r.PostFormValue("answer") {
	case "accept":
	case "decline":
		finish, next = outbox.Decline, ""
	default:
		p.write(w, http.StatusBadRequest, wordsFor(r.Header.Get("Accept-Language")), "unclear", outbox.InvitationRecord{})
		return
	}
	record, err := commit(r.Context(), p.pool, func(ctx context.Context, tx outbox.Tx) (outbox.InvitationRecord, error) {
		return finish(ctx, tx, r.PathValue("token"))
	})
	if over, ok := errors.AsType[*outbox.StatusError](err); ok {
		if over.Status != "accepted" || next == "" {
			p.show(w, r)
			return
		}
		// The button was pressed twice, and the browser shows the second answer only.
		record, err = outbox.Verify(r.Context(), p.pool, r.PathValue("token"))
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	p.headers(w)
	w.Header().Set("Location", cmp.Or(leadsTo(next, record), "./"+url.PathEscape(r.PathValue("token")))) // relative: a proxy may have cut the path
	w.WriteHeader(http.StatusSeeOther)
}

// leadsTo is next for one invitation.
func leadsTo(next string, record outbox.InvitationRecord) string {
	return strings.ReplaceAll(next, "{id}", record.ID)
}

func (p *joinPage) fail(w http.ResponseWriter, r *http.Request, err error) {
	words := wordsFor(r.Header.Get("Accept-Language"))
	if errors.Is(err, outbox.ErrInvalidToken) {
		p.write(w, http.StatusNotFound, words, "invalid", outbox.InvitationRecord{})
		return
	}
	p.logger.LogAttrs(r.Context(), slog.LevelError, "join page failed", slog.Any("error", err), slog.String("request_id", requestID(r.Context())))
	w.Header().Set("Retry-After", "5")
	p.write(w, http.StatusServiceUnavailable, words, "trouble", outbox.InvitationRecord{})
}

func (p *joinPage) headers(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", p.policy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Robots-Tag", "noindex, nofollow")
}

func (p *joinPage) write(w http.ResponseWriter, code int, words joinWords, status string, record outbox.InvitationRecord) {
	p.headers(w)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	said, next := words.said[status], ""
	if status == "accepted" && p.next != "" {
		said, next = said[:1], leadsTo(p.next, record)
	}
	_ = p.page.Execute(w, map[string]any{ // the client is gone, and nobody is left to tell
		"Lang": words.lang, "Title": said[0], "Text": said[1:],
		"Group": record.GroupName, "Inviter": record.InviterName, "By": words.by,
		"Asks": status == "pending", "Accept": words.accept, "Decline": words.decline, "Next": next, "GoOn": words.goOn,
	})
}

// standing is the status of an invitation now, whether or not somebody has written
// down already that its time is over.
func standing(record outbox.InvitationRecord) string {
	if record.Status == "pending" && !time.Now().Before(record.ExpiresAt) {
		return "expired"
	}
	return record.Status
}

// joinWords are what the page says in a language: for each status a title, and what
// there is to say besides.
type joinWords struct {
	lang, by, accept, decline, goOn string
	said                            map[string][]string
}

// wordsFor finds the words for a language tag, or a list of them such as browsers
// send. What is not there is English.
func wordsFor(languages string) joinWords {
	for tag := range strings.SplitSeq(languages, ",") {
		switch base := strings.ToLower(strings.TrimSpace(tag)); {
		case strings.HasPrefix(base, "de"):
			return german()
		case strings.HasPrefix(base, "en"):
			return english()
		}
	}
	return english()
}

func english() joinWords {
	return joinWords{
		lang: "en", by: "Invited by", accept: "Accept", decline: "Decline", goOn: "Go on",
		said: map[string][]string{
			"pending":  {"You are invited"},
			"accepted": {"You have accepted the invitation", "You can close this page."},
			"declined": {"You have declined the invitation", "You can close this page."},
			"revoked":  {"The invitation was withdrawn", "Ask whoever invited you for a new one."},
			"expired":  {"The invitation has expired", "Ask whoever invited you for a new one."},
			"invalid":  {"This link is not valid", "Look for a newer mail: it has replaced the one that this link is from."},
			"unclear":  {"That was not an answer", "Go back, and choose one of the buttons."},
			"trouble":  {"This does not work at the moment", "Try again in a minute."},
		},
	}
}

func german() joinWords {
	return joinWords{
		lang: "de", by: "Eingeladen von", accept: "Annehmen", decline: "Ablehnen", goOn: "Weiter",
		said: map[string][]string{
			"pending":  {"Sie sind eingeladen"},
			"accepted": {"Sie haben die Einladung angenommen", "Sie können diese Seite schließen."},
			"declined": {"Sie haben die Einladung abgelehnt", "Sie können diese Seite schließen."},
			"revoked":  {"Die Einladung wurde zurückgezogen", "Bitten Sie um eine neue, wenn Sie möchten."},
			"expired":  {"Die Einladung ist abgelaufen", "Bitten Sie um eine neue, wenn Sie möchten."},
			"invalid":  {"Dieser Link ist nicht gültig", "Suchen Sie nach einer neueren Mail: sie hat die ersetzt, aus der dieser Link ist."},
			"unclear":  {"Das war keine Antwort", "Gehen Sie zurück und wählen Sie eine der Tasten."},
			"trouble":  {"Das geht gerade nicht", "Versuchen Sie es in einer Minute noch einmal."},
		},
	}
}
