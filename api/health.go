package api

import (
	"context"
	"log/slog"
	"time"
)

// readyTimeout is how long everything that /readyz asks may take.
const readyTimeout = 2 * time.Second

type healthOutput struct{ Body health }

type health struct {
	Status string `json:"status" example:"ok" doc:"ok. Anything else is a problem document."`
}

// live says that the program answers, and asks nobody else.
func (s *server) live(context.Context, *struct{}) (*healthOutput, error) {
	return &healthOutput{Body: health{Status: "ok"}}, nil
}

// isReady says whether requests and messages would get through now. The reasons
// why not are for the log: anybody may ask.
func (s *server) isReady(ctx context.Context, _ *struct{}) (*healthOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := s.pool.Ping(ctx); err != nil {
		return nil, s.unready(ctx, err, "The database does not answer.")
	}
	if err := s.ready(ctx); err != nil {
		return nil, s.unready(ctx, err, "The daemon is not ready to send.")
	}
	return &healthOutput{Body: health{Status: "ok"}}, nil
}

func (s *server) unready(ctx context.Context, cause error, detail string) *problem {
	s.logger.LogAttrs(ctx, slog.LevelWarn, "not ready", slog.Any("error", cause), slog.String("request_id", requestID(ctx)))
	return newProblem(notReady, "Retry-After", "1").because(detail)
}
