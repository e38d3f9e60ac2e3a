package api

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"strings"
	"time"
)

type requestIDKey struct{}

// requestID is the id of the request that ctx belongs to.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// saneRequestID is what is taken over from the client. It has no room for an
// address, a blank or a line break.
var saneRequestID = regexp.MustCompile(`^[A-Za-z0-9._:/+=-]{1,128}$`)

// observe gives every request an id, answers for handlers that panic, and logs
// one line a request: what happened, and nothing that a client has written
// except a method and an id.
func (s *server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		id := r.Header.Get("X-Request-Id")
		if !saneRequestID.MatchString(id) {
			id = rand.Text()
		}
		r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
		w.Header().Set("X-Request-Id", id)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		answer := &recorder{ResponseWriter: w}

		defer func() {
			s.logger.LogAttrs(r.Context(), slog.LevelInfo, "http request",
				slog.String("method", r.Method),
				slog.String("route", route(r.Pattern)),
				slog.Int("status", answer.status),
				slog.Float64("took_ms", float64(time.Since(began).Microseconds())/1000),
				slog.String("request_id", id))
		}()
		defer s.recovered(answer, r)
		next.ServeHTTP(answer, r)
	})
}

// recovered turns a panic into an answer, or cuts the line when one has begun.
func (s *server) recovered(w *recorder, r *http.Request) {
	cause := recover()
	if cause == nil {
		return
	}
	if _, isError := cause.(error); isError && r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // huma could not write: the client has gone
	}
	s.logger.LogAttrs(r.Context(), slog.LevelError, "http handler panicked",
		slog.Any("panic", cause),
		slog.String("stack", string(debug.Stack())),
		slog.String("request_id", requestID(r.Context())))
	if w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	writeProblem(w, r, toProblem(errors.New("panic")))
}

// route is the path of a pattern of [http.ServeMux].
func route(pattern string) string {
	if pattern == "" {
		return "none"
	}
	_, path, found := strings.Cut(pattern, " ")
	if !found {
		return pattern
	}
	return path
}

// recorder notes the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int // 0 before the header is written
}

// WriteHeader notes the final status.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write writes the header first, as every ResponseWriter does.
func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap gives [http.ResponseController] what is below.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
