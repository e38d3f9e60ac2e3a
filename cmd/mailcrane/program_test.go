package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// TestMain lets the test program be the program itself, so that a test can kill
// a real daemon.
func TestMain(m *testing.M) {
	if os.Getenv("MAILCRANE_TEST_AS_PROGRAM") != "" {
		if err := os.Unsetenv("MAILCRANE_TEST_AS_PROGRAM"); err != nil {
			panic(err)
		}
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// program is a mailcrane in a process of its own.
type program struct {
	*exec.Cmd
	log  *buffer
	done chan error
}

// buffer may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *buffer) tail() string {
	text := b.String()
	return text[max(0, len(text)-3000):]
}

// startProgram runs mailcrane with only these settings in its environment.
func startProgram(t *testing.T, environ []string, args ...string) *program {
	t.Helper()
	p := &program{Cmd: exec.Command(os.Args[0], args...), log: &buffer{}, done: make(chan error, 1)}
	p.Env = append([]string{"MAILCRANE_TEST_AS_PROGRAM=1", "PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()}, environ...)
	p.Stdout, p.Stderr = p.log, p.log
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.Wait() }()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		if t.Failed() {
			t.Logf("mailcrane %s said at last:\n%s", strings.Join(args, " "), p.log.tail())
		}
	})
	return p
}

// says waits until the program's output has the text.
func (p *program) says(t *testing.T, text string) {
	t.Helper()
	waitFor(t, func() bool { return strings.Contains(p.log.String(), text) }, "the program to say "+text)
}

// exit waits for the end and gives the exit code.
func (p *program) exit(t *testing.T) int {
	t.Helper()
	select {
	case err := <-p.done:
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			return failed.ExitCode()
		}
		return 0
	case <-time.After(30 * time.Second):
		t.Fatal("the program does not end")
		return -1
	}
}

func waitFor(t *testing.T, condition func() bool, what string) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-ticker.C
	}
}

// settingsFor are those of a daemon between a database and a mailbox.
func settingsFor(pool *pgxpool.Pool, box *mailbox.Server, more ...string) []string {
	return append([]string{
		"DATABASE_URL=" + pool.Config().ConnString(),
		"SMTP_URL=smtp://" + box.Addr() + "?tls=none",
		"MAILCRANE_FROM=Club <club@example.com>",
		"MAILCRANE_ACCEPT_URL=https://app.example/join?token={token}",
		"MAILCRANE_SECRET=0123456789abcdef0123456789abcdef",
		"MAILCRANE_LISTEN=127.0.0.1:0",
		"MAILCRANE_UNSAFE_DATABASE=true", // the tests' server has fsync off
		"MAILCRANE_RETRY_MIN=1s", "MAILCRANE_RETRY_MAX=1s",
		"LOG_FORMAT=json",
	}, more...)
}

// startDaemon runs `mailcrane serve` in this process.
func startDaemon(t *testing.T, environ []string, args ...string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	log := &buffer{}
	done := make(chan error, 1)
	go func() { done <- run(ctx, append([]string{"serve"}, args...), environ, io.Discard, log) }()
	waitFor(t, func() bool { return strings.Contains(log.String(), "mailcrane runs") || len(done) > 0 }, "the daemon to run")
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the daemon said at last:\n%s", log.tail())
		}
	})
}

func invite(t *testing.T, tx outbox.Tx, email string) string {
	t.Helper()
	receipt, err := outbox.Invite(context.Background(), tx, outbox.Invitation{GroupID: "42", GroupName: "Analytical Engine Club", Email: email})
	if err != nil {
		t.Fatal(err)
	}
	return receipt.MessageID
}

func waitForStatus(t *testing.T, pool *pgxpool.Pool, id string, want outbox.Status) outbox.MessageRecord {
	t.Helper()
	var m outbox.MessageRecord
	waitFor(t, func() bool {
		var err error
		if m, err = outbox.GetMessage(context.Background(), pool, id); err != nil {
			t.Fatal(err)
		}
		return m.Status == want
	}, "message to be "+string(want))
	return m
}

func outcomes(m outbox.MessageRecord) string {
	var list []string
	for _, a := range m.Attempts {
		list = append(list, string(a.Outcome))
	}
	return strings.Join(list, " ")
}
