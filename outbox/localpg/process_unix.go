//go:build unix

package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
)

// account is who PostgreSQL runs as: ourselves, unless that is root.
type account struct {
	credential *syscall.Credential
}

func findAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr == nil && gidErr == nil {
			return account{&syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
		}
	}
	return account{}, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody")
}

// own makes the server's user the owner of a file.
func (a account) own(path string) error {
	if a.credential == nil {
		return nil
	}
	return os.Chown(path, int(a.credential.Uid), int(a.credential.Gid))
}

// letIn opens a folder of ours to the server's user, if that is another one than
// ourselves, and makes sure that it can get there.
func (a account) letIn(path string) error {
	if a.credential == nil {
		return nil
	}
	if err := os.Chmod(path, 0o755); err != nil { //nolint:gosec // the data in it are 0700
		return fmt.Errorf("data directory: %w", err)
	}
	for parent := filepath.Dir(path); parent != filepath.Dir(parent); parent = filepath.Dir(parent) {
		if info, err := os.Stat(parent); err == nil && info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("PostgreSQL cannot run as root, and its user cannot enter %s: name a directory elsewhere", parent)
		}
	}
	return nil
}

// apply makes a command run as the server's user, away from our own folder, which
// that user may not be able to enter, and from the terminal's Ctrl-C, which is
// for us.
func (a account) apply(cmd *exec.Cmd) {
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: a.credential}
}

// process is a running server.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// startProcess runs the server. Its parent, for the purpose of dying together,
// is the thread that started it: that thread is kept until the server ends.
func startProcess(path string, arguments []string, logPath string, a account) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // a file of ours
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(path, arguments...), done: make(chan struct{})} //nolint:gosec,noctx // it outlives the caller's context
	p.cmd.Stdout, p.cmd.Stderr = log, log
	a.apply(p.cmd)
	dieWithParent(p.cmd.SysProcAttr)
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close() //nolint:errcheck // nothing was buffered
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // however it ended, it has ended
			close(p.done)
		}
	}()
	return p, <-started
}

// stop asks for a fast shutdown, and kills when ctx ends first.
func (p *process) stop(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	_ = p.cmd.Process.Signal(syscall.SIGQUIT) // takes the children along, which SIGKILL would not
	<-p.done
	return fmt.Errorf("stop PostgreSQL: %w", ctx.Err())
}

// processLives says whether there is a process with that id, whoever owns it.
func processLives(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// lockFile opens and locks a file, and writes our process id into it. The lock
// ends with the file, at the latest with this program.
func lockFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644) //nolint:gosec // no secret
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errors.New("it is in use by another program")
		}
		return nil, err
	}
	if err := errors.Join(file.Truncate(0), write(file, strconv.Itoa(os.Getpid()))); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

func write(file *os.File, text string) error {
	_, err := file.WriteAt([]byte(text), 0)
	return err
}
