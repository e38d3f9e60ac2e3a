package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc, the same for all programs whatever the
// kernel's own clock (sysconf(_SC_CLK_TCK)).
const tick = time.Second / 100

// times of a process: its own, and those of its children that have ended.
type times struct {
	parent      int
	own, reaped time.Duration
}

// processes are all that run, by id.
type processes map[int]times

// look reads what runs. A process that ends meanwhile is passed over: its parent
// has its time.
func look() processes {
	entries, _ := os.ReadDir("/proc") // without it nothing is known, which is seen
	all := processes{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if t, ok := timesOf(pid); ok {
			all[pid] = t
		}
	}
	return all
}

// timesOf reads /proc/<pid>/stat. What comes before the last parenthesis, the
// name of the program, may hold anything.
func timesOf(pid int) (times, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return times{}, false
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const parent, user, system, childrenUser, childrenSystem = 1, 11, 12, 13, 14
	if len(fields) <= childrenSystem {
		return times{}, false
	}
	number := func(i int) time.Duration {
		n, _ := strconv.ParseInt(fields[i], 10, 64) // the kernel wrote it
		return time.Duration(n)
	}
	return times{
		parent: int(number(parent)),
		own:    (number(user) + number(system)) * tick,
		reaped: (number(childrenUser) + number(childrenSystem)) * tick,
	}, true
}

// tree is the time of a process and of all that come from it.
func (all processes) tree(pid int) time.Duration {
	sum := all[pid].own + all[pid].reaped
	for child, t := range all {
		if t.parent == pid {
			sum += all.tree(child)
		}
	}
	return sum
}

// busy is the time that the machine's processors have worked, and that a
// hypervisor has kept from them. The time in interrupts is left out: it belongs
// to nobody, and most of it is our own talk on the loopback.
func busy() (time.Duration, bool) {
	stat, err := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(line)
	const user, nice, system, steal = 1, 2, 3, 8
	if err != nil || len(fields) <= steal {
		return 0, false
	}
	var sum time.Duration
	for _, i := range []int{user, nice, system, steal} {
		n, _ := strconv.ParseInt(fields[i], 10, 64) // the kernel wrote it
		sum += time.Duration(n) * tick
	}
	return sum, true
}

// take reads the processors' account.
func (p pids) take() sample {
	s := sample{at: time.Now()}
	s.busy, s.known = busy()
	all := look()
	s.ours = all.tree(os.Getpid())
	if p.postgres != 0 && !all.descends(p.postgres, os.Getpid()) {
		s.ours += all.tree(p.postgres)
	}
	for _, pid := range p.daemons {
		s.daemons += all.tree(pid)
	}
	if p.postgres != 0 {
		s.postgres = all.tree(p.postgres)
	}
	s.sink = all[p.sink].own
	return s
}

// descends says whether a process comes from another one.
func (all processes) descends(pid, from int) bool {
	for pid > 1 && pid != from { // the first has no parent
		pid = all[pid].parent
	}
	return pid == from
}

// postmaster finds the first process of the server that a backend belongs to, 0
// if the server is on another machine, or in a container that we cannot look into.
func postmaster(backend int, database string) int {
	title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", backend))
	if err != nil || !bytes.HasPrefix(title, []byte("postgres:")) || !bytes.Contains(title, []byte(database)) {
		return 0
	}
	t, _ := timesOf(backend)
	return t.parent
}

// peakMemory is the most memory that a process has had at a time, in bytes.
func peakMemory(pid int) (int64, bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			kilobytes, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kilobytes << 10, err == nil
		}
	}
	return 0, false
}
