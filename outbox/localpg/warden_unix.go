//go:build unix

package localpg

import (
	"io"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
)

// A warden is a shell that does what this program cannot do any more when it was
// killed, or is a test program, which has no place for it: it ends the server,
// where the kernel does not, and removes the folder of an ephemeral one.
type warden struct {
	cmd  *exec.Cmd
	line io.Closer // the shell waits for its end
}

// lastWill waits until the program at the other end of the line is gone. A fast
// shutdown takes a moment; the folder goes last, but it does go.
const lastWill = `
read -r _
kill -INT "$1"
n=0
while kill -0 "$1" && [ "$n" -lt 300 ]; do
	sleep 0.1
	n=$((n + 1))
done
[ -z "$2" ] || rm -rf -- "$2"`

// startWarden does without one where there is no shell: that folder is removed
// when the next ephemeral server starts.
func startWarden(pid int, remove string) *warden {
	if remove == "" && runtime.GOOS == "linux" {
		return nil
	}
	cmd := exec.Command("/bin/sh", "-c", lastWill, "mailcrane-pg-warden", strconv.Itoa(pid), remove) //nolint:gosec,noctx // the arguments are ours, and it outlives us
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	line, err := cmd.StdinPipe()
	if err != nil || cmd.Start() != nil {
		return nil
	}
	return &warden{cmd: cmd, line: line}
}

// dismiss ends the warden of a server that has ended: the id of that server may
// be another process's soon. It is killed before the line ends.
func (w *warden) dismiss() {
	if w == nil {
		return
	}
	_ = w.cmd.Process.Kill() // it has ended, then
	_ = w.cmd.Wait()         // it was killed, as it says
	_ = w.line.Close()       // Wait has done so
}
