//go:build unix

package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/mailcrane/mailcrane/cmd/mailcrane/child"
	"github.com/mailcrane/mailcrane/outbox/localpg/pgproxy"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// daemon is a mailcrane in a process of its own, with a proxy before the database
// and two relays that only it uses. As under a service manager, it is started
// again whenever it ends.
type daemon struct {
	name   string
	args   []string
	listen string // address of the HTTP API
	proxy  *pgproxy.Proxy
	relays [2]*mailbox.Server
	base   []string // environment
	path   string   // of the program
	log    *os.File

	mu      sync.Mutex
	extra   []string // more of the environment, which goes before
	wanted  bool
	process *os.Process
	ended   chan struct{} // closed when the process is gone
	exit    int
	keeping chan struct{} // closed when nobody starts it any more
}

// newDaemon prepares what the daemon needs. It does not start it.
func (s *stage) newDaemon(name, databaseURL string, args ...string) (_ *daemon, err error) {
	d := &daemon{name: name, args: append([]string{"serve"}, args...), path: s.Program}
	if d.proxy, err = pgproxy.Listen(databaseURL); err != nil {
		return nil, err
	}
	for i := range d.relays {
		if d.relays[i], err = mailbox.Listen(mailbox.Config{Capacity: -1, Keep: s.sink.keep}); err != nil {
			return nil, err
		}
	}
	if d.listen, err = freeAddress(); err != nil {
		return nil, err
	}
	if d.log, err = os.OpenFile(filepath.Join(s.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil { //nolint:gosec // a file in our own folder
		return nil, err
	}
	d.base = append([]string{
		"DATABASE_URL=" + d.proxy.URL(),
		fmt.Sprintf("SMTP_URL=smtp://%s?tls=none,smtp://%s?tls=none", d.relays[0].Addr(), d.relays[1].Addr()),
		"MAILCRANE_FROM=Torture <torture@example.com>",
		"MAILCRANE_ACCEPT_URL=https://torture.example/join?token={token}",
		"MAILCRANE_SECRET=a secret of thirty-two characters or more",
		"MAILCRANE_TEMPLATES=" + s.templates(),
		"MAILCRANE_LISTEN=" + d.listen,
		"MAILCRANE_INSTALLATION=torture",
		"MAILCRANE_LEASE=" + s.Lease.String(),
		"MAILCRANE_RETRY_MIN=1s", "MAILCRANE_RETRY_MAX=4s",
		"LOG_FORMAT=json",
	}, s.Environ...)
	return d, nil
}

// freeAddress looks below the ports that kernels give to whoever asks for any: the
// daemon has to find its own free whenever it is started again.
func freeAddress() (address string, err error) {
	for range 20 {
		address = fmt.Sprintf("127.0.0.1:%d", 12_000+rand.IntN(20_000))
		var listener net.Listener
		if listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", address); err == nil {
			return address, listener.Close()
		}
	}
	return "", err
}

// start runs the daemon with more settings than the usual ones, until stop.
func (d *daemon) start(extra ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.extra, d.wanted, d.keeping = extra, true, make(chan struct{})
	go d.keep(d.keeping)
}

// keep starts the process as often as it ends. The thread is kept too: the death
// of a parent, for a process that asks to die with it, is that of a thread.
func (d *daemon) keep(done chan struct{}) {
	defer close(done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		d.mu.Lock()
		if !d.wanted {
			d.mu.Unlock()
			return
		}
		cmd := exec.Command(d.path, d.args...) //nolint:gosec,noctx // that is what this is for, and stop ends it
		cmd.Env = append(append([]string{}, d.base...), d.extra...)
		cmd.Stdout, cmd.Stderr = d.log, d.log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		child.DieWithParent(cmd.SysProcAttr)
		err := cmd.Start()
		d.ended = make(chan struct{})
		if err == nil {
			d.process = cmd.Process
		}
		d.mu.Unlock()
		if err == nil {
			_ = cmd.Wait() // the exit code tells
		}
		d.mu.Lock()
		d.process, d.exit = nil, cmd.ProcessState.ExitCode()
		close(d.ended)
		d.mu.Unlock()
		<-time.After(200 * time.Millisecond) // who ends at once must not be started at once, forever
	}
}

// signal sends a signal to the process, if there is one.
func (d *daemon) signal(sig syscall.Signal) (ended <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.process != nil {
		_ = d.process.Signal(sig) // it may be gone already
	}
	return d.ended
}

// pause is SIGSTOP, and returns when nothing of the process runs any more: the
// signal alone reaches its threads one by one.
func (d *daemon) pause() {
	d.signal(syscall.SIGSTOP)
	for pid := d.pid(); pid != 0 && !isStopped(pid); {
		<-time.After(time.Millisecond)
	}
}

// resume is SIGCONT.
func (d *daemon) resume() { d.signal(syscall.SIGCONT) }

// kill is kill -9, and returns when the process is gone.
func (d *daemon) kill() { <-d.signal(syscall.SIGKILL) }

// terminate is a stop as a service manager asks for, followed by a new start. It
// gives the exit code.
func (d *daemon) terminate(ctx context.Context) (exit int, err error) {
	select {
	case <-d.signal(syscall.SIGTERM):
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.exit, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("%s does not end on SIGTERM: %w", d.name, ctx.Err())
	}
}

// stop ends the daemon for good, or until the next start.
func (d *daemon) stop(ctx context.Context) error {
	d.mu.Lock()
	d.wanted = false
	keeping := d.keeping
	d.mu.Unlock()
	if keeping == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	d.resume()
	d.signal(syscall.SIGTERM)
	select {
	case <-keeping:
		return nil
	case <-ctx.Done():
		d.signal(syscall.SIGKILL)
		<-keeping
		return fmt.Errorf("%s does not end on SIGTERM: %w", d.name, ctx.Err())
	}
}

// ready waits until the daemon says that it is.
func (d *daemon) ready(ctx context.Context) error {
	return until(ctx, time.Minute, d.name+" is ready", func(ctx context.Context) (bool, error) { return d.isReady(ctx), nil })
}

// close ends the daemon and all that is only there for it.
func (d *daemon) close(ctx context.Context) error {
	err := d.stop(ctx)
	return errors.Join(err, d.proxy.Close(), d.relays[0].Close(), d.relays[1].Close(), d.log.Close())
}

// isReady asks once.
func (d *daemon) isReady(ctx context.Context) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.listen+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	return response.Body.Close() == nil && response.StatusCode == http.StatusOK
}

// refuses watches for a while that the daemon does not become ready.
func (d *daemon) refuses(ctx context.Context, long time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	for ctx.Err() == nil {
		if d.isReady(ctx) {
			return fmt.Errorf("%s is ready, and should not be", d.name)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

func (d *daemon) pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.process == nil {
		return 0
	}
	return d.process.Pid
}
