package outboxtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Dump is what pg_dump writes of a database with the given options. A test is
// skipped where the program is not installed; in `make check`, which installs it,
// the test fails.
func Dump(tb testing.TB, databaseURL string, options ...string) (string, error) {
	tb.Helper()
	ctx := context.Background()
	program, err := exec.LookPath("pg_dump")
	if err != nil {
		bin, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output()
		switch {
		case err == nil:
			program = filepath.Join(strings.TrimSpace(string(bin)), "pg_dump")
		case os.Getenv("MAILCRANE_CHECK") != "":
			tb.Fatal("pg_dump is not installed: apt-get install postgresql-client")
		default:
			tb.Skip("pg_dump is not installed: apt-get install postgresql-client")
		}
	}
	out, err := exec.CommandContext(ctx, program, append(options, databaseURL)...).Output() //nolint:gosec // the test's own options
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		return "", fmt.Errorf("pg_dump: %w: %s", err, failed.Stderr)
	}
	return string(out), err
}
