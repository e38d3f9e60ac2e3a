package bench

import "time"

// sample is what the processors have done up to a moment, in processor time.
type sample struct {
	at       time.Time
	known    bool // the system tells
	daemons  time.Duration
	postgres time.Duration
	sink     time.Duration
	ours     time.Duration // all of these, the producers and this program
	busy     time.Duration // the whole machine, whoever it worked for
}

// pids are the processes to look at, 0 for those that are not there.
type pids struct {
	daemons  []int
	postgres int // the first process of the server
	sink     int
}

func (s sample) since(before sample) sample {
	return sample{
		known:    s.known && before.known,
		daemons:  s.daemons - before.daemons,
		postgres: s.postgres - before.postgres,
		sink:     s.sink - before.sink,
		ours:     s.ours - before.ours,
		busy:     s.busy - before.busy,
	}
}
