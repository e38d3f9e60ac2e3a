package localpg

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// unfinishedPrefix begins the names of data directories in the making.
const unfinishedPrefix = "unfinished-"

// initialize runs initdb under a temporary name, so that one that was cut off is
// never taken for a data directory.
func (d *directory) initialize(ctx context.Context, b binaries, a account, sync bool) error {
	leftovers, _ := filepath.Glob(filepath.Join(d.path, unfinishedPrefix+"*")) // fails only on a malformed pattern
	for _, leftover := range leftovers {
		_ = os.RemoveAll(leftover) // it is in nobody's way
	}
	passwordFile := filepath.Join(d.path, "password")
	if err := os.WriteFile(passwordFile, []byte(rand.Text()+"\n"), 0o600); err != nil {
		return fmt.Errorf("write password: %w", err)
	}
	if err := a.own(passwordFile); err != nil {
		return fmt.Errorf("write password: %w", err)
	}
	var refused error
	for _, locale := range b.locales() {
		err := d.initdb(ctx, b, a, append(locale, "--pwfile", passwordFile), sync)
		if err == nil || ctx.Err() != nil {
			return err
		}
		refused = errors.Join(refused, err)
	}
	return refused
}

// initdb makes a data directory and puts it into its place.
func (d *directory) initdb(ctx context.Context, b binaries, a account, arguments []string, sync bool) error {
	unfinished, err := os.MkdirTemp(d.path, unfinishedPrefix)
	if err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	defer os.RemoveAll(unfinished) //nolint:errcheck // after the renaming it is not there
	if err := a.own(unfinished); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	arguments = append(arguments, "--pgdata", unfinished, "--username", superuser,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--no-instructions")
	if !sync {
		arguments = append(arguments, "--no-sync")
	}
	if out, err := a.run(exec.CommandContext(ctx, b.path("initdb"), arguments...)); err != nil { //nolint:gosec // all arguments are ours
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	if err := os.Rename(unfinished, d.data()); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	return nil
}

// locales are the options of initdb to try in turn. All sort by bytes; the last,
// which works everywhere, knows no letters beyond ASCII, so that lower() leaves
// the capitals of international domains as they are.
func (b binaries) locales() [][]string {
	plain := []string{"--locale", "C"}
	if major, _ := strconv.Atoi(b.major); major >= 17 {
		return [][]string{append(plain, "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"), plain}
	}
	return [][]string{append(plain, "--lc-ctype", "C.UTF-8"), plain}
}
