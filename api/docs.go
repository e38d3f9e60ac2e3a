package api

import (
	_ "embed"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"github.com/swaggest/swgui/v5emb"

	"github.com/mailcrane/mailcrane/outbox"
)

//go:embed docs.html
var docsPage []byte

//go:embed docs.js
var docsScript []byte

// docsPolicy lets the page load from this server only, and run no script that
// stands in the page. Swagger UI cannot do without inline styles.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// registerDocs serves the description for people. All of it comes from the
// binary, so that it works where there is no internet.
func registerDocs(mux *http.ServeMux) {
	parts := v5emb.New("Mailcrane", "/openapi.json", "/docs/")
	mux.HandleFunc("GET /docs", serveDocsFile("text/html; charset=utf-8", docsPage))
	mux.Handle("GET /docs/{$}", http.RedirectHandler("/docs", http.StatusMovedPermanently))
	mux.HandleFunc("GET /docs/docs.js", serveDocsFile("text/javascript; charset=utf-8", docsScript))
	mux.HandleFunc("GET /docs/{part}", func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains([]string{"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"}, r.PathValue("part")) {
			writeProblem(w, r, newProblem(notFound).because("The pages at /docs have no such part."))
			return
		}
		w.Header().Set("Cache-Control", "public, max-age=3600")
		parts.ServeHTTP(w, r)
	})
}

func serveDocsFile(contentType string, content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Security-Policy", docsPolicy)
		_, _ = w.Write(content) // an error means that nobody is left to tell
	}
}

// serveDocument serves the description for programs.
func serveDocument(document []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document)
	}
}

// Description is the OpenAPI document of all paths that there can be, as
// GET /openapi.json gives it.
func Description(version string) ([]byte, error) {
	s := &server{templates: noTemplates{}}
	return json.Marshal(s.register(http.NewServeMux(), version))
}

// noTemplates stand in for [Templates] where nobody asks for one.
type noTemplates struct{}

func (noTemplates) Names() map[string][]string { return nil }

func (noTemplates) Render(*outbox.Message) (subject, text, html string, err error) {
	return "", "", "", errors.New("there are no templates")
}
