package api

import (
	"log/slog"
	"net/http"
	"time"
)

// NewServer makes a server for h with limits on everything that a client could
// drag out or blow up: 5 seconds for the header, 15 for the whole request, 30
// until the end of the answer, 2 minutes idle, and 16 KiB of header. Complaints
// of net/http go to logger, nil discards them.
func NewServer(addr string, h http.Handler, logger *slog.Logger) *http.Server {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &http.Server{
		Addr:              addr,
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second, // longer than a body and a write to the database may take
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}
