//go:build unix

package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// apply makes a command run as the server's user, away from our own folder, which
// that user may not be able to enter, and from the terminal's Ctrl-C, which is
// for us. It ends with us, as far as the system offers that. Of our environment,
// which may hold passwords, it gets what programs need to run at all.
func (a account) apply(cmd *exec.Cmd) {
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C"} // otherwise macOS makes the server multi-threaded, and it gives up
	for _, name := range []string{"PATH", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value, set := os.LookupEnv(name); set {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: a.credential}
	dieWithParent(cmd.SysProcAttr)
}

// run runs a command to its end and gives what it said. Its parent, for the
// purpose of dying together, is a thread: that thread is kept until then.
func (a account) run(cmd *exec.Cmd) (string, error) {
	a.apply(cmd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// process is a running server.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// startProcess runs the server, on a thread that is kept until the server ends,
// for the same reason as in run. The server ends with us, and remove, unless it
// is empty, is a folder that goes with both.
func startProcess(path string, arguments []string, logPath, remove string, a account) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // a file of ours
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(path, arguments...), done: make(chan struct{})} //nolint:gosec,noctx // it outlives the caller's context
	p.cmd.Stdout, p.cmd.Stderr = log, log
	a.apply(p.cmd)
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close() //nolint:errcheck // nothing was buffered
		err := p.cmd.Start()
		if err != nil {
			started <- err
			return
		}
		w := startWarden(p.cmd.Process.Pid, remove)
		started <- nil
		_ = p.cmd.Wait() // however it ended, it has ended
		w.dismiss()
		close(p.done)
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
	select {
	case <-p.done:
	case <-time.After(10 * time.Second): // twice what it gives its children
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	return fmt.Errorf("stop PostgreSQL: %w", ctx.Err())
}

// crash makes the server and its children drop everything (an immediate shutdown).
func (p *process) crash() error {
	if err := p.cmd.Process.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill PostgreSQL: %w", err)
	}
	<-p.done
	return nil
}

// processLives says whether there is a process with that id, whoever owns it.
func processLives(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// lockFile opens and locks a file, and writes our process id into it. The lock
// ends with the file, at the latest with this program.
func lockFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600) //nolint:gosec // a file of ours
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			owner, _ := os.ReadFile(path) //nolint:gosec // a file of ours; if it cannot be read, the message is as good
			err = fmt.Errorf("it is in use by another program, process %s", owner)
		}
		return nil, errors.Join(err, file.Close())
	}
	if err := file.Truncate(0); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if _, err := file.WriteString(strconv.Itoa(os.Getpid())); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
