//go:build unix

package bench

import (
	"runtime"
	"time"
)

// processors are the figures of processor time for some mails.
func (s *stage) processors(run *Run, before, after sample, mails int) {
	used := after.since(before)
	if !used.known {
		run.remark("processor time: not available on this system")
		return
	}
	one := func(name, label string, d time.Duration) {
		run.add(Figure{name + "_cpu_per_1000", "processor time of " + label + " for 1,000 mails", "s", per(d.Seconds(), mails)})
	}
	one("daemon", "the daemon", used.daemons)
	if s.postgres != 0 {
		one("postgres", "PostgreSQL", used.postgres)
		one("both", "both", used.daemons+used.postgres)
	} else {
		run.remark("processor time of PostgreSQL: not known, its process is not to be seen from here")
	}
	one("sink", "the relay (not ours)", used.sink)
	s.foreign(run, before, after)
}

// foreign is what others did meanwhile. A database server that we do not see
// counts among them.
func (s *stage) foreign(run *Run, before, after sample) {
	used := after.since(before)
	elapsed := after.at.Sub(before.at).Seconds()
	if !used.known || elapsed <= 0 {
		return
	}
	share := max(0, 100*(used.busy-used.ours).Seconds()/elapsed/float64(runtime.NumCPU()))
	if run.Foreign == nil || *run.Foreign < share { // the worst part of the run counts
		run.Foreign = &share
	}
}

// shares are the figures of processor time where there is little to do.
func (s *stage) shares(run *Run, name, label string, before, after sample) {
	used := after.since(before)
	elapsed := after.at.Sub(before.at).Seconds()
	if !used.known {
		run.remark("%sprocessor time: not available on this system", label)
		return
	}
	percent := func(d time.Duration) float64 { return 100 * d.Seconds() / elapsed }
	run.add(Figure{name + "daemon_cpu_percent", label + "the daemon's share of a processor", "%", percent(used.daemons)})
	if s.postgres != 0 {
		run.add(Figure{name + "postgres_cpu_percent", label + "PostgreSQL's share of a processor", "%", percent(used.postgres)})
	} else {
		run.remark("%sprocessor time of PostgreSQL: not known, its process is not to be seen from here", label)
	}
	s.foreign(run, before, after)
}

func per(amount float64, mails int) float64 { return amount / float64(max(1, mails)) * 1000 }
