//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/cmd/mailcrane/torture"
)

// tortureReport is what `mailcrane torture --json` prints.
type tortureReport struct {
	torture.Report
	Broken []string `json:"broken"`
}

// runTorture runs a short torture with a program of its own, and gives the report
// and the exit code.
func runTorture(t *testing.T, program string, args ...string) (tortureReport, int) {
	t.Helper()
	seed := strconv.Itoa(rand.IntN(1_000_000))
	cmd := exec.CommandContext(t.Context(), program, append([]string{"torture", "--json", "--seed", seed, "--lease", "2s", "--scale", "0.02", "--rate", "20"}, args...)...)
	var out, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &progress
	err := cmd.Run()
	t.Log(progress.String())
	var report tortureReport
	if jsonErr := json.Unmarshal(out.Bytes(), &report); jsonErr != nil {
		t.Fatalf("%v, %v:\n%s", err, jsonErr, out.String())
	}
	if report.Left != "" {
		t.Cleanup(func() {
			if !t.Failed() {
				_ = os.RemoveAll(report.Left)
			}
		})
	}
	return report, cmd.ProcessState.ExitCode()
}

// buildProgram builds mailcrane, with some files replaced.
func buildProgram(t *testing.T, replaced map[string]string, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "mailcrane")
	args := append([]string{"build", "-buildvcs=false", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program}, flags...)
	if out, err := exec.CommandContext(t.Context(), "go", append(args, ".")...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

func skipIfShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it takes minutes: run without -short")
	}
}

func TestTorture_keepsEveryPromise(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	report, code := runTorture(t, buildProgram(t, nil, "-race"), "--messages", "1000")
	slow := 0 // a machine that does other things at the same time breaks no promise
	for _, round := range report.Rounds {
		if round.Recovery > round.Within && round.Recovery < 3*round.Within {
			slow++
		}
	}
	if len(report.Broken) > slow || code != min(1, slow) || len(report.Rounds) < 25 {
		t.Errorf("exit code %d, %d rounds, broken: %q; left in %s", code, len(report.Rounds), report.Broken, report.Left)
	}
	for _, round := range report.Rounds {
		if round.Skipped != "" && round.Case != 24 { // not everybody may mount a small disk
			t.Errorf("case %d was skipped: %s", round.Case, round.Skipped)
		}
	}
}

// ablation is the program without one of its safeguards: edits of single places
// in its source, from and to.
type ablation struct {
	name  string
	edits map[string][][2]string // by file
	cases string                 // that turn red
	want  string                 // in what is broken
}

func ablations() []ablation {
	fence := [][2]string{
		{"AND EXISTS (\n\t\t\tSELECT FROM mailcrane.instance AS n\n\t\t\tWHERE n.id = $9::uuid AND n.stopped_at IS NULL AND n.heartbeat_at > clock_timestamp() - n.lease)", ""},
		{"AND EXISTS (\n\t\t\tSELECT FROM mailcrane.river_job AS j", "AND x.job_attempt > 0 AND $9::uuid IS NOT NULL AND EXISTS (\n\t\t\tSELECT FROM mailcrane.river_job AS j"},
		{"AND (j.state = 'running') IS TRUE\n\t\t\t  AND j.attempt = x.job_attempt\n\t\t\t  AND j.attempted_by[array_upper(j.attempted_by, 1)] = $9::uuid::text)", ")"},
		{"if err := r.instance.trusted(); err != nil { // R4", "if err := r.instance.trusted(); err != nil && t.panicked {"},
	}
	// Two attempts that know nothing of each other have the same number, otherwise.
	ownNumber := [][2]string{{"l.Attempts + 1,", "l.Attempts + 1 + int(time.Now().UnixNano()%1000),"}}
	return []ablation{
		{"no ledger", map[string][][2]string{"../../outbox/handover.go": {
			{"r := t.relay\n", "r := t.relay\n\tt.handedOver = true\n\tif h.attempt > 0 {\n\t\treturn nil\n\t}\n"},
		}}, "5", "copies that no unknown attempt explains"},
		{"no re-check", map[string][][2]string{
			"../../outbox/open.go": ownNumber,
			"../../outbox/handover.go": append([][2]string{
				{"WHERE m.status = 'queued'\n", "WHERE true\n"},
				{"(a.outcome = 'accepted' OR a.outcome IS NULL)", "a.outcome IS NULL"},
			}, fence...),
		}, "12", "copies that no unknown attempt explains"},
		{"no unique index", map[string][][2]string{
			"../../outbox/open.go": ownNumber,
			"../../outbox/handover.go": append([][2]string{
				{"(a.outcome = 'accepted' OR a.outcome IS NULL)", "a.outcome = 'accepted'"},
			}, fence...),
			"../../migrations/000012_attempt.up.sql": {{"CREATE UNIQUE INDEX attempt_one_open", "CREATE INDEX attempt_one_open"}},
		}, "12", "copies that no unknown attempt explains"},
		{"completion by state alone", map[string][][2]string{"../../outbox/job.go": {
			{"r.settled.add(t.job)", "r.settled.take(t.job)"},
			{"return errors.Join(err, river.JobSnooze(wait))", "_ = river.JobSnooze(wait)\n\treturn errors.Join(err)"},
		}}, "12", "stuck"},
		{"soft close after an error", map[string][][2]string{"../../sender/dialogue.go": {
			{"stop := context.AfterFunc(ctx, func() { _ = c.wire.Close() })", "stop := context.AfterFunc(ctx, func() { _ = c.wire.SetWriteDeadline(time.Now()) })"},
			{"	if !stop() {\n", `	if !stop() {
		_ = c.wire.SetWriteDeadline(time.Now().Add(30 * time.Second))
		_, _ = c.wire.Write([]byte("\r\n.\r\nQUIT\r\n"))
`},
		}}, "20", "damaged"},
	}
}

// A torture that nothing fails proves nothing: without any one of the safeguards
// that carry the promise, it finds the promise broken.
func TestTorture_findsEveryMissingSafeguard(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	for _, a := range ablations() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			report, code := runTorture(t, a.build(t), "--only", a.cases, "--messages", "40")
			t.Log(report.Broken)
			if code != 1 || !strings.Contains(strings.Join(report.Broken, "\n"), a.want) {
				t.Errorf("exit code %d, want 1; broken: %q, want %q", code, report.Broken, a.want)
			}
		})
	}
}

// build makes the program without the safeguard.
func (a ablation) build(t *testing.T) string {
	t.Helper()
	replaced := map[string]string{}
	for name, edits := range a.edits {
		path, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text := string(source)
		for _, edit := range edits {
			if strings.Count(text, edit[0]) != 1 {
				t.Fatalf("%s has changed: %q is in it %d times", name, edit[0], strings.Count(text, edit[0]))
			}
			text = strings.Replace(text, edit[0], edit[1], 1)
		}
		replaced[path] = filepath.Join(t.TempDir(), filepath.Base(name))
		if err := os.WriteFile(replaced[path], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return buildProgram(t, replaced)
}
