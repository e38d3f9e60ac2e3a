//go:build unix

package bench

import (
	"fmt"
	"path/filepath"
)

// say tells what goes on.
func (c Config) say(format string, values ...any) {
	_, _ = fmt.Fprintf(c.Progress, format+"\n", values...) // nobody depends on it
}

// forRun is the configuration of one of several runs.
func (c Config) forRun(n int) Config {
	if c.Profile != "" && c.Runs > 1 {
		c.Profile = filepath.Join(c.Profile, fmt.Sprintf("run-%d", n+1))
	}
	return c
}

// settings are what the figures depend on, of this call.
func (c Config) settings() map[string]any {
	settings := map[string]any{
		"daemons": c.Daemons, "serve": c.Serve, "settings": c.Settings, "postgres": c.PostgreSQL, "own_server": c.DatabaseURL == "",
		"reply_delay": c.Sink.ReplyDelay.String(), "rtt": c.Sink.RTT.String(), "sink_fsync": c.Flush,
	}
	switch c.Mode {
	case Drain:
		settings["messages"] = c.Messages
	case Backlog:
		settings["messages"], settings["waiting"], settings["finished"], settings["hold_snapshot"] = c.Messages, c.Waiting, c.Finished, c.Hold.String()
	case Enqueue:
		settings["duration"], settings["producers"] = c.Duration.String(), c.Writers
	case Idle:
		settings["duration"] = c.Duration.String()
	case EndToEnd:
		settings["duration"], settings["producers"] = c.Duration.String(), c.Producers
	case Fairness:
		settings["messages"], settings["rate"], settings["duration"] = c.Messages, c.Rate, c.Duration.String()
	case Latency:
		settings["rate"], settings["duration"], settings["producers"] = c.Rate, c.Duration.String(), c.Producers
	}
	return settings
}
