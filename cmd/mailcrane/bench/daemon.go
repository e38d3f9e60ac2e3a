//go:build unix

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/mailcrane/mailcrane/cmd/mailcrane/child"
)

// daemon is a `mailcrane serve` in a process of its own.
type daemon struct {
	process *child.Process
	log     *os.File
	stopped bool
	mourned bool // that it has ended was said already
}

// startDaemons starts as many as are wanted, and returns when all run.
func (s *stage) startDaemons(ctx context.Context, args ...string) error {
	if s.Profile != "" {
		if err := os.MkdirAll(s.Profile, 0o750); err != nil {
			return err
		}
	}
	for range s.Daemons {
		s.started++
		arguments := append([]string{"serve"}, args...)
		if s.Profile != "" {
			arguments = append(arguments, "--cpuprofile", filepath.Join(s.Profile, fmt.Sprintf("%s-%d.pprof", s.Mode, s.started)))
		}
		d, err := s.startDaemon(s.path(fmt.Sprintf("daemon-%d.log", s.started)), append(arguments, s.Serve...))
		if err != nil {
			return fmt.Errorf("start a daemon: %w", err)
		}
		s.daemons = append(s.daemons, d)
	}
	for _, d := range s.daemons {
		if _, err := d.said(ctx, "mailcrane runs"); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) startDaemon(logPath string, args []string) (*daemon, error) {
	log, err := os.Create(logPath) //nolint:gosec // a file in our own folder
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(s.Daemon, args...) //nolint:gosec,noctx // that is what this is for, and stopDaemons ends it
	cmd.Env = append([]string{
		"DATABASE_URL=" + s.databaseURL,
		"SMTP_URL=smtp://" + s.sink.address + "?tls=none",
		"MAILCRANE_FROM=Bench <bench@example.com>",
		"MAILCRANE_ACCEPT_URL=https://bench.example/join?token={token}",
		"MAILCRANE_SECRET=a secret of thirty-two characters or more",
		"MAILCRANE_LISTEN=127.0.0.1:0",
	}, s.Environ...)
	cmd.Env = append(cmd.Env, s.Settings...) // the last one wins
	cmd.Stdout, cmd.Stderr = log, log
	d := &daemon{log: log}
	if d.process, err = child.Start(cmd); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return d, nil
}

// said waits until the daemon has logged a line with this message, and gives it.
func (d *daemon) said(ctx context.Context, message string) (line map[string]any, err error) {
	err = until(ctx, time.Minute, 5*time.Millisecond, "a daemon says: "+message, func(context.Context) (bool, error) {
		if line, err = d.find(message); line != nil || err != nil {
			return line != nil, err
		}
		return false, d.alive()
	})
	if err != nil && !d.mourned {
		err = fmt.Errorf("%w%s", err, tail(d.log.Name()))
	}
	return line, err
}

// alive is an error if the daemon has ended by itself.
func (d *daemon) alive() error {
	select {
	case <-d.process.Done():
		d.mourned = true
		return fmt.Errorf("a daemon has ended: %w%s", d.process.Err(), tail(d.log.Name()))
	default:
		return nil
	}
}

func (s *stage) alive() error {
	for _, d := range s.daemons {
		if err := d.alive(); err != nil {
			return err
		}
	}
	return nil
}

// find gives the last line with this message, nil if there is none.
func (d *daemon) find(message string) (line map[string]any, err error) {
	text, err := os.ReadFile(d.log.Name())
	if err != nil {
		return nil, err
	}
	for raw := range bytes.Lines(text) {
		if !bytes.Contains(raw, []byte(message)) {
			continue
		}
		var parsed map[string]any
		if json.Unmarshal(raw, &parsed) == nil && parsed["msg"] == message {
			line = parsed
		}
	}
	return line, nil
}

// stopDaemons ends those that run. That they end badly is an error.
func (s *stage) stopDaemons(ctx context.Context) error {
	var failed error
	for _, d := range s.daemons {
		if d.stopped {
			continue
		}
		d.stopped = true
		if err := d.process.Stop(ctx); err != nil && !d.mourned {
			failed = errors.Join(failed, fmt.Errorf("stop a daemon: %w%s", err, tail(d.log.Name())))
		}
		failed = errors.Join(failed, d.log.Close())
	}
	return failed
}

// peakMemory is the most that any daemon has had, in bytes.
func (s *stage) peakMemory() (most int64, known bool) {
	for _, d := range s.daemons {
		if n, ok := peakMemory(d.process.Pid()); ok {
			most, known = max(most, n), true
		}
	}
	return most, known
}

// groups are how many items the daemons wrote together, on average. A daemon that
// does not tell is passed over.
func (s *stage) groups() Figures {
	var figures Figures
	for _, name := range []string{"open", "handover", "close"} {
		items, groups := 0.0, 0.0
		for _, d := range s.daemons {
			line, err := d.find("groups written")
			if err != nil || line == nil {
				continue
			}
			n, _ := line[name+"_items"].(float64)
			g, _ := line[name+"_groups"].(float64)
			items, groups = items+n, groups+g
		}
		if groups > 0 {
			figures = append(figures, Figure{"group_" + name, "items in a group, " + name, "", items / groups})
		}
	}
	return figures
}
