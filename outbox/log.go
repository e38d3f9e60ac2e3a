package outbox

import (
	"context"
	"log/slog"
)

// quietHandler passes River's log lines on at one level less: what River calls
// an error is a job that will be tried again.
type quietHandler struct{ slog.Handler }

func (h *quietHandler) Handle(ctx context.Context, record slog.Record) error {
	record.Level -= 4
	if !h.Enabled(ctx, record.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, record)
}

func (h *quietHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &quietHandler{h.Handler.WithAttrs(attrs)}
}

func (h *quietHandler) WithGroup(name string) slog.Handler {
	return &quietHandler{h.Handler.WithGroup(name)}
}
