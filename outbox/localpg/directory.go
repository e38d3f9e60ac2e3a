package localpg

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// directory is a folder of this package: a lock, PostgreSQL's data directory,
// the password, the port of the last time and a log.
type directory struct {
	path string
	lock *os.File
}

// lockName is also what tells our folders from others.
const lockName, ephemeralPrefix = "mailcrane.lock", "mailcrane-pg-"

func (d *directory) data() string { return filepath.Join(d.path, "data") }
func (d *directory) log() string  { return filepath.Join(d.path, "postgres.log") }

// openDirectory makes or takes a folder, and locks it for this program.
func openDirectory(config Config, a account) (*directory, error) {
	path := config.Dir
	switch {
	case config.Ephemeral:
		removeLeftovers(os.TempDir())
		temporary, err := os.MkdirTemp("", ephemeralPrefix)
		if err != nil {
			return nil, fmt.Errorf("temporary directory: %w", err)
		}
		path = temporary
	case path == "":
		base, err := baseDir()
		if err != nil {
			return nil, err
		}
		path = filepath.Join(base, "postgresql")
	}
	path, err := filepath.Abs(path) // the server works in another folder than we do
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	d, err := lockDirectory(path, a)
	if err != nil && config.Ephemeral {
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	return d, err
}

func lockDirectory(path string, a account) (*directory, error) {
	if err := checkForeign(path); err != nil {
		return nil, err
	}
	if err := makeFolder(path); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := a.letIn(path); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(path, lockName))
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &directory{path: path, lock: lock}, nil
}

// makeFolder makes a folder and the missing ones above it, so that the server's
// user can reach its data, which are 0700, whatever our umask is.
func makeFolder(path string) error {
	const mode = 0o755
	parent := filepath.Dir(path)
	if _, err := os.Stat(parent); errors.Is(err, os.ErrNotExist) {
		if err := makeFolder(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, mode); errors.Is(err, os.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// checkForeign refuses a folder that holds something and is not ours.
func checkForeign(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) == 0 {
		return nil //nolint:nilerr // it is not there yet
	}
	for _, entry := range entries {
		if entry.Name() == lockName {
			return nil
		}
	}
	return fmt.Errorf("%s is not empty and was not made by mailcrane: name another directory", path)
}

// prepare makes the data directory, or checks that this version of PostgreSQL
// can use it.
func (d *directory) prepare(ctx context.Context, b binaries, a account) error {
	written, err := os.ReadFile(filepath.Join(d.data(), "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return d.initialize(ctx, b, a)
	}
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if found := strings.TrimSpace(string(written)); found != b.major {
		return fmt.Errorf("%s was written by PostgreSQL %s, and %s is %s: name another directory, or install PostgreSQL %s",
			d.path, found, b.dir, b.version, found)
	}
	return d.waitForPredecessor(ctx)
}

// initialize runs initdb under a temporary name, so that one that was cut off is
// never taken for a data directory.
func (d *directory) initialize(ctx context.Context, b binaries, a account) error {
	unfinished := filepath.Join(d.path, "data.unfinished")
	if err := os.RemoveAll(unfinished); err != nil {
		return fmt.Errorf("remove an unfinished initdb: %w", err)
	}
	passwordFile := filepath.Join(d.path, "password")
	if err := os.WriteFile(passwordFile, []byte(rand.Text()+"\n"), 0o600); err != nil {
		return fmt.Errorf("write password: %w", err)
	}
	if err := errors.Join(os.Mkdir(unfinished, 0o700), a.own(unfinished), a.own(passwordFile)); err != nil {
		return fmt.Errorf("prepare data directory: %w", err)
	}
	initdb := exec.CommandContext(ctx, b.path("initdb"), "--pgdata", unfinished, "--username", superuser, //nolint:gosec // all arguments are ours
		"--auth", "scram-sha-256", "--pwfile", passwordFile, "--encoding", "UTF8", "--locale", "C", "--no-instructions")
	a.apply(initdb)
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	if err := os.Rename(unfinished, d.data()); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	return nil
}

// waitForPredecessor waits for the server of a program that was killed: it is
// told to end, but that may take a moment.
func (d *directory) waitForPredecessor(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for d.serverLives() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("another PostgreSQL runs in %s: %w", d.path, ctx.Err())
		}
	}
	return nil
}

// serverLives asks the file that a running server keeps in its data directory.
func (d *directory) serverLives() bool {
	content, err := os.ReadFile(filepath.Join(d.data(), "postmaster.pid"))
	if err != nil {
		return false
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	return err == nil && processLives(pid)
}

func (d *directory) password() (string, error) {
	content, err := os.ReadFile(filepath.Join(d.path, "password"))
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	return strings.TrimSpace(string(content)), nil
}

// port gives the port of the last time, if it is free, or any that is.
func (d *directory) port() (int, error) {
	file := filepath.Join(d.path, "port")
	remembered, _ := os.ReadFile(file) //nolint:gosec // a file of ours; not there the first time
	for _, wanted := range []string{strings.TrimSpace(string(remembered)), "0"} {
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", wanted)) //nolint:noctx // it does not wait
		if err != nil || wanted == "" {
			continue
		}
		port := listener.Addr().(*net.TCPAddr).Port
		if err := listener.Close(); err != nil {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		return port, os.WriteFile(file, []byte(strconv.Itoa(port)), 0o644) //nolint:gosec // no secret
	}
	return 0, errors.New("no free port on 127.0.0.1")
}

// logTail is the end of the server's log.
func (d *directory) logTail() string {
	content, err := os.ReadFile(d.log())
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-2000):])
}

// close gives the folder up. A second call does nothing.
func (d *directory) close(remove bool) error {
	var err error
	if remove {
		err = os.RemoveAll(d.path)
	}
	if closing := d.lock.Close(); !errors.Is(closing, os.ErrClosed) {
		err = errors.Join(err, closing)
	}
	return err
}

// removeLeftovers removes the ephemeral folders of programs that were killed. A
// folder is left over when its lock is free, the program that wrote its pid into
// the lock is gone, and so is the server.
func removeLeftovers(parent string) {
	folders, _ := filepath.Glob(filepath.Join(parent, ephemeralPrefix+"*")) // fails only on a malformed pattern
	for _, folder := range folders {
		lockPath := filepath.Join(folder, lockName)
		content, err := os.ReadFile(lockPath) //nolint:gosec // a file of ours
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(string(content))
		if err != nil || processLives(pid) {
			continue
		}
		lock, err := lockFile(lockPath)
		if err != nil {
			continue
		}
		d := &directory{path: folder, lock: lock}
		_ = d.close(!d.serverLives()) // somebody else's turn to try, next time
	}
}
