package localpg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
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
const lockName = "mailcrane.lock"

func (d *directory) data() string { return dataIn(d.path) }
func (d *directory) log() string  { return filepath.Join(d.path, "postgres.log") }

func dataIn(path string) string { return filepath.Join(path, "data") }

// place is where the data are to be. It makes the folder of an ephemeral server,
// and no other.
func (c Config) place(a account) (string, error) {
	if c.Ephemeral {
		return makeEphemeral(a, c.NoFsync)
	}
	if c.Dir != "" {
		path, err := filepath.Abs(c.Dir) // the server works in another folder than we do
		if err != nil {
			return "", fmt.Errorf("data directory: %w", err)
		}
		return path, nil
	}
	base, err := dataHome()
	if err != nil {
		return "", err
	}
	return filepath.Join(base, "mailcrane", "postgresql"), nil
}

// dataHome is where the user's programs keep their data.
func dataHome() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib", nil // below /root the server's user could not reach it
	}
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return data, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a place for the data: %w", err)
	}
	return filepath.Join(home, ".local", "share"), nil
}

// openDirectory makes or takes a folder, and locks it for this program.
func openDirectory(path string, a account) (*directory, error) {
	if err := checkForeign(path); err != nil {
		return nil, err
	}
	if err := makeFolder(path, a.folderMode()); err != nil {
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

// makeFolder makes a folder and the missing ones above it. What it makes has that
// mode, whatever the umask says.
func makeFolder(path string, mode fs.FileMode) error {
	parent := filepath.Dir(path)
	if _, err := os.Stat(parent); errors.Is(err, os.ErrNotExist) {
		if err := makeFolder(parent, mode); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, mode); err != nil {
		if info, missing := os.Stat(path); missing == nil && info.IsDir() {
			return nil
		}
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

// majorIn is the major version of PostgreSQL that wrote the data in a folder, or
// empty if there are none.
func majorIn(path string) (string, error) {
	content, err := os.ReadFile(filepath.Join(dataIn(path), "PG_VERSION"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("data directory: %w", err)
	}
	return strings.TrimSpace(string(content)), nil
}

// prepare makes the data directory, or checks that this version of PostgreSQL
// can use it.
func (d *directory) prepare(ctx context.Context, b binaries, a account, sync bool) error {
	found, err := majorIn(d.path)
	switch {
	case err != nil:
		return err
	case found == "":
		return d.initialize(ctx, b, a, sync)
	case found != b.major:
		return fmt.Errorf("%s was written by PostgreSQL %s, and %s is %s: name another directory, or install PostgreSQL %s",
			d.path, found, b.dir, b.version, found)
	}
	return d.waitForPredecessor(ctx)
}

// waitForPredecessor waits for the server of a program that was killed: it is
// told to end, but that may take a moment.
func (d *directory) waitForPredecessor(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		pid := d.predecessor()
		switch {
		case pid == 0 || !processLives(pid):
			return nil
		case !mayWorkIn(pid, d.data()):
			return d.disown(pid)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("another PostgreSQL, process %d, runs in %s: %w", pid, d.path, ctx.Err())
		}
	}
}

// predecessor is the process id that the server of the last time has left in its
// data directory, or 0: a server that ends in good order leaves none.
func (d *directory) predecessor() int {
	content, err := os.ReadFile(filepath.Join(d.data(), pidFile))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, _ := strconv.Atoi(strings.TrimSpace(first)) // what is no number is nobody's
	return pid
}

const pidFile = "postmaster.pid"

// disown tells PostgreSQL that the process which has the id of its predecessor is
// another one: otherwise it would refuse to start. That happens after a reboot,
// and above all in a container, where the same few ids come round again. The rest
// of the file stays, by which PostgreSQL finds out whether a part of the old
// server is left.
func (d *directory) disown(pid int) error {
	data, err := os.OpenRoot(d.data()) // it belongs to the server's user: follow no link out of it
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	defer data.Close() //nolint:errcheck // only a handle
	content, err := data.ReadFile(pidFile)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	// The parent of a server cannot be another server: that id it passes over.
	rest := strings.TrimPrefix(string(content), strconv.Itoa(pid))
	if err := data.WriteFile(pidFile, []byte(strconv.Itoa(os.Getpid())+rest), 0o600); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
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
		return port, os.WriteFile(file, []byte(strconv.Itoa(port)), 0o600) //nolint:gosec // a file of ours
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
