//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox/localpg"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// benchReport is what `mailcrane bench --json` prints.
type benchReport struct {
	Mode       string `json:"mode"`
	PostgreSQL string `json:"postgresql"`
	Cores      int    `json:"cores"`
	Runs       []struct {
		Figures  map[string]float64 `json:"figures"`
		Foreign  *float64           `json:"foreign_cpu_percent"`
		Failures []string           `json:"failures"`
	} `json:"runs"`
	Summary map[string]struct {
		Median float64 `json:"median"`
	} `json:"summary"`
}

// benchmarks run with one program, and with databases of the tests' server.
type benchmarks struct{ program string }

// run gives the report and the exit code of a benchmark in an empty database.
func (b benchmarks) run(t *testing.T, pool *pgxpool.Pool, args ...string) (report benchReport, code int, said string) {
	t.Helper()
	args = append(append([]string{"bench"}, args...), "--json", "--database-url", pool.Config().ConnString(),
		"--set", "MAILCRANE_UNSAFE_DATABASE=true") // the tests' server has fsync off
	cmd := exec.CommandContext(t.Context(), b.program, args...)
	var out, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &progress
	err := cmd.Run()
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &report); err != nil {
			t.Fatalf("%v:\n%s", err, out.String())
		}
	}
	if cmd.ProcessState.ExitCode() != 0 {
		t.Logf("%v: %s", err, progress.String())
	}
	return report, cmd.ProcessState.ExitCode(), progress.String()
}

// require runs one that has to go well, and give these figures.
func (b benchmarks) require(t *testing.T, args []string, figures ...string) benchReport {
	t.Helper()
	pool := outboxtest.Database(t)
	report, code, said := b.run(t, pool, args...)
	if code != 0 || len(report.Runs) == 0 || report.Mode != args[0] || report.PostgreSQL == "" || report.Cores == 0 {
		t.Fatalf("exit code %d, %+v\n%s", code, report, said)
	}
	for _, run := range report.Runs {
		if len(run.Failures) > 0 {
			t.Errorf("failures: %q", run.Failures)
		}
		for _, name := range figures {
			if value, found := run.Figures[name]; !found || value <= 0 {
				t.Errorf("%s: %g, %t, in %v", name, value, found, run.Figures)
			}
		}
	}
	var left int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM mailcrane.message`).Scan(&left); err != nil || left > 0 {
		t.Errorf("%d messages are left in the database (%v)", left, err)
	}
	return report
}

func TestBench_measures(t *testing.T) {
	t.Parallel()
	b := benchmarks{program: buildProgram(t, nil)}
	t.Run("drain", func(t *testing.T) {
		t.Parallel()
		profiles := filepath.Join(t.TempDir(), "profiles")
		report := b.require(t, []string{"drain", "--messages", "200", "--runs", "2", "--daemons", "2", "--workers", "10", "--profile", profiles},
			"mails_per_s", "transactions_per_1000", "filled_per_s", "connections")
		if len(report.Runs) != 2 || report.Summary["mails_per_s"].Median <= 0 {
			t.Errorf("%+v", report)
		}
		for _, name := range []string{"run-1/drain-1.pprof", "run-1/drain-2.pprof", "run-2/drain-1.pprof"} {
			if info, err := os.Stat(filepath.Join(profiles, name)); err != nil || info.Size() == 0 {
				t.Errorf("profile: %v", err)
			}
		}
	})
	t.Run("drain slowly", func(t *testing.T) {
		t.Parallel()
		b.require(t, []string{"drain", "--messages", "50", "--reply-delay", "1ms", "--rtt", "5ms", "--fsync", "--poll-only", "--connections", "2"}, "mails_per_s")
	})
	t.Run("enqueue", func(t *testing.T) {
		t.Parallel()
		b.require(t, []string{"enqueue", "--duration", "200ms", "--producers", "1,3"},
			"invite_1_per_s", "invite_3_per_s", "invite_3_p50_ms", "invite_3_p99_ms", "invite_many_per_s", "bare_per_s", "bare_p99_ms", "ratio")
	})
	t.Run("e2e", func(t *testing.T) {
		t.Parallel()
		b.require(t, []string{"e2e", "--duration", "500ms"}, "submitted_per_s", "overall_per_s", "commit_p50_ms", "transactions_per_1000")
	})
	t.Run("latency", func(t *testing.T) {
		t.Parallel()
		report := b.require(t, []string{"latency", "--duration", "500ms", "--rate", "40"},
			"listen_whole_p50_ms", "listen_commit_p99_ms", "listen_delivery_max_ms", "poll_whole_p50_ms", "http_post_p50_ms", "http_post_p99_ms",
			"bare_commit_p50_ms", "bare_commit_p99_ms", "post_to_bare_p99")
		for _, name := range []string{"listen_messages", "poll_messages", "http_messages"} {
			if n := report.Runs[0].Figures[name]; n != 20 {
				t.Errorf("%s: %g", name, n)
			}
		}
	})
	t.Run("backlog", func(t *testing.T) {
		t.Parallel()
		b.require(t, []string{"backlog", "--messages", "100", "--waiting", "200", "--finished", "300", "--hold-snapshot", "1m"},
			"mails_per_s", "plain_mails_per_s", "ratio_mails_per_s")
	})
	t.Run("fairness", func(t *testing.T) {
		t.Parallel()
		b.require(t, []string{"fairness", "--messages", "1000", "--duration", "500ms", "--rate", "20", "--reply-delay", "40ms"},
			"quiet_whole_p50_ms", "batch_delivery_max_ms", "batch_waiting", "single_delivery_p99_ms", "single_waiting")
	})
	t.Run("idle", func(t *testing.T) {
		t.Parallel()
		b.require(t, []string{"idle", "--duration", "1s"}, "transactions_per_s")
	})
}

func TestBench_failsWhereItShould(t *testing.T) {
	t.Parallel()
	b := benchmarks{program: buildProgram(t, nil)}
	t.Run("a lost mail", func(t *testing.T) {
		t.Parallel()
		report, code, _ := b.run(t, outboxtest.Database(t), "drain", "--messages", "50", "--lose", "20")
		if code != 1 || len(report.Runs) != 1 || !strings.Contains(strings.Join(report.Runs[0].Failures, "\n"), "1 of 50 mails are lost") {
			t.Errorf("exit code %d, %+v", code, report)
		}
	})
	t.Run("a mail that came twice", func(t *testing.T) {
		t.Parallel()
		report, code, _ := b.run(t, outboxtest.Database(t), "drain", "--messages", "50", "--repeat", "20")
		if code != 1 || len(report.Runs) != 1 || !strings.Contains(strings.Join(report.Runs[0].Failures, "\n"), "1 mails came twice") {
			t.Errorf("exit code %d, %+v", code, report)
		}
	})
	t.Run("a daemon that does not start", func(t *testing.T) {
		t.Parallel()
		_, code, said := b.run(t, outboxtest.Database(t), "drain", "--messages", "50", "--set", "MAILCRANE_FROM=nonsense")
		if code != 1 || !strings.Contains(said, "MAILCRANE_FROM (environment) is not a mailbox") {
			t.Errorf("exit code %d: %s", code, said)
		}
	})
	t.Run("a database in use", func(t *testing.T) {
		t.Parallel()
		pool := outboxtest.Database(t)
		invite(t, pool, "ada@example.com")
		_, code, said := b.run(t, pool, "drain", "--messages", "50")
		var left int
		err := pool.QueryRow(t.Context(), `SELECT count(*) FROM mailcrane.message WHERE status = 'queued'`).Scan(&left)
		if code != 1 || !strings.Contains(said, "there is something in mailcrane.message: bench wants") || err != nil || left != 1 {
			t.Errorf("exit code %d, %d messages left (%v): %s", code, left, err, said)
		}
	})
}

// Whoever stops a benchmark finds nothing of it afterwards, and none of its
// processes.
func TestBench_cleansUpWhenItIsStopped(t *testing.T) {
	t.Parallel()
	path := buildProgram(t, nil)
	temporary := t.TempDir()
	if err := os.Chmod(filepath.Dir(temporary), 0o755); err != nil { // PostgreSQL runs as another user
		t.Fatal(err)
	}
	log := &buffer{}
	cmd := exec.CommandContext(t.Context(), path, "bench", "idle", "--duration", "1h")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + temporary}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	waitFor(t, func() bool {
		if strings.Contains(log.String(), localpg.ErrNoBinaries.Error()) {
			t.Skip(localpg.ErrNoBinaries) // without a server there is no benchmark to stop
		}
		return strings.Contains(log.String(), "watching")
	}, "the benchmark")
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(log.String(), "mailcrane: stopped") {
			t.Errorf("%v: %s", err, log.tail())
		}
	case <-time.After(time.Minute):
		t.Fatalf("it does not end: %s", log.tail())
	}
	left, err := os.ReadDir(temporary)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v (%v)", left, err)
	}
}
