package bench

import (
	"os"
	"testing"
	"time"
)

func TestTake_findsThisProcessAmongAll(t *testing.T) {
	t.Parallel()
	p := pids{daemons: []int{os.Getpid()}}
	first := p.take()
	for p.take().since(first).daemons < 3*tick {
		if time.Since(first.at) > time.Minute {
			t.Fatal("a minute of work is not seen")
		}
	}
	used := p.take().since(first)
	if !used.known || used.ours < used.daemons || used.postgres != 0 {
		t.Errorf("%+v", used)
	}
	if peak, known := peakMemory(os.Getpid()); !known || peak < 1<<20 {
		t.Errorf("memory %d, %t", peak, known)
	}
}

func TestProcesses_addUpByDescent(t *testing.T) {
	t.Parallel()
	all := processes{
		1: {own: 100 * tick}, 2: {parent: 1, own: tick, reaped: 2 * tick}, 3: {parent: 2, own: 4 * tick}, 4: {parent: 3, own: 8 * tick}, 5: {parent: 1, own: 16 * tick},
	}
	if sum := all.tree(2); sum != 15*tick {
		t.Errorf("%s", sum)
	}
	if !all.descends(4, 2) || all.descends(5, 2) || all.descends(0, 2) {
		t.Error("descent")
	}
	if postmaster(os.Getpid(), "mailcrane") != 0 {
		t.Error("this is no PostgreSQL")
	}
}
