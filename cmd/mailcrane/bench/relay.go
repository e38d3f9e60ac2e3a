//go:build unix

package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/mailcrane/mailcrane/cmd/mailcrane/child"
)

// helper is a process of this program that is told and asks by lines of JSON.
type helper struct {
	process *child.Process
	name    string
	in      io.WriteCloser
	out     *bufio.Reader
	pipe    *os.File // what out reads
	log     *os.File

	mu sync.Mutex // one question at a time
}

// startHelper runs `mailcrane bench <name>`.
func (c Config) startHelper(logPath, name string, args ...string) (*helper, error) {
	log, err := os.Create(logPath) //nolint:gosec // a file in our own folder
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(c.Program, append([]string{"bench", name}, args...)...) //nolint:gosec,noctx // that is what this is for, and stop ends it
	cmd.Env, cmd.Stderr = c.Environ, log
	in, inErr := cmd.StdinPipe()
	// Not StdoutPipe: Wait closes that, and there may be something left to read.
	out, into, outErr := os.Pipe()
	if err := errors.Join(inErr, outErr); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	cmd.Stdout = into
	h := &helper{name: name, in: in, out: bufio.NewReader(out), pipe: out, log: log}
	h.process, err = child.Start(cmd)
	if err := errors.Join(err, into.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("start the %s: %w", name, err), out.Close(), log.Close())
	}
	return h, nil
}

// hear reads one line.
func (h *helper) hear(ctx context.Context, into any) error {
	heard := make(chan error, 1)
	go func() {
		line, err := h.out.ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, into)
		}
		heard <- err
	}()
	select {
	case err := <-heard:
		if err != nil {
			return fmt.Errorf("the %s says nothing any more: %w%s", h.name, err, tail(h.log.Name()))
		}
		return nil
	case <-ctx.Done():
		h.process.Kill() // and the reader ends
		if err := <-heard; err == nil {
			return nil // it came all the same
		}
		return ctx.Err()
	}
}

// stop ends the process.
func (h *helper) stop(ctx context.Context) error {
	_ = h.in.Close() // it may be gone already
	select {
	case <-h.process.Done():
	case <-ctx.Done():
		h.process.Kill()
	}
	return errors.Join(h.pipe.Close(), h.log.Close())
}

// tail is the end of a log, for an error.
func tail(path string) string {
	const length = 2000
	text, err := os.ReadFile(path) //nolint:gosec // a file in our own folder
	if err != nil || len(text) == 0 {
		return ""
	}
	return "; its log says:\n" + string(text[max(0, len(text)-length):])
}

// relay is the process of the sink.
type relay struct {
	*helper
	address string
}

func (s *stage) startSink(ctx context.Context) (*relay, error) {
	args := []string{
		"--reply-delay", s.Sink.ReplyDelay.String(), "--rtt", s.Sink.RTT.String(),
		"--lose", strconv.Itoa(s.Sink.Lose), "--repeat", strconv.Itoa(s.Sink.Repeat),
	}
	if s.Flush {
		args = append(args, "--journal", s.path("mails"))
	}
	h, err := s.startHelper(s.path("sink.log"), "sink", args...)
	if err != nil {
		return nil, err
	}
	var greeting sinkGreeting
	if err := h.hear(ctx, &greeting); err != nil {
		h.process.Kill()
		return nil, errors.Join(err, h.stop(ctx))
	}
	return &relay{h, greeting.Address}, nil
}

// ask gives the answer to a word.
func (r *relay) ask(ctx context.Context, word string, into any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := io.WriteString(r.in, word+"\n"); err != nil {
		return fmt.Errorf("the sink has ended: %w%s", err, tail(r.log.Name()))
	}
	return r.hear(ctx, into)
}

func (r *relay) count(ctx context.Context) (c Count, err error) {
	err = r.ask(ctx, "count", &c)
	return c, err
}

// produce lets producers work in a process of their own. They are all connected
// before they begin.
func (s *stage) produce(ctx context.Context, o order) (done outcome, err error) {
	o.Database = s.databaseURL
	h, err := s.startHelper(s.path("producers.log"), "produce")
	if err != nil {
		return done, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, h.stop(ctx))
	}()
	if err := json.NewEncoder(h.in).Encode(o); err != nil {
		return done, fmt.Errorf("the producers have ended: %w%s", err, tail(h.log.Name()))
	}
	var ready string
	if err := h.hear(ctx, &ready); err != nil {
		return done, err
	}
	if _, err := io.WriteString(h.in, "\"go\"\n"); err != nil {
		return done, fmt.Errorf("the producers have ended: %w%s", err, tail(h.log.Name()))
	}
	err = h.hear(ctx, &done)
	s.written += done.Messages
	return done, err
}
