package outbox_test

// Bounds of the model. Three attempts allow for a first copy, its repeat and one
// repeat too many; a third worker for one that meddles while two disagree.
const (
	mostWorkers  = 3
	mostAttempts = 3
)

// rules are a version of the protocol: first who takes part and what the policy
// is, then how much of the world they meet, and last the safeguards that are
// taken away, none by default.
type rules struct {
	workers    int  // of this message, each in a daemon of its own
	maxUnknown int  // R2: repeats after an unknown outcome
	hold       bool // R2: hold at the first unknown outcome, already in close

	// The world as it is, which has many more schedules: a lease that is over may
	// be renewed; attempts have numbers of their own; the network and the database
	// fail before and in the handover; and what a worker returns reaches the job
	// by River, later, whoever runs it by then, and gives its attempt number back.
	real     bool
	siblings bool // the first two workers are in one daemon, which took the message twice

	noLedger        bool // no open and no handover: what a plain River worker does
	noFence         bool // R3 without the lease and the claim on the job
	noUniqueIndex   bool // R3 without the index attempt_one_open
	noRecheck       bool // neither open nor handover asks for accepted attempts (R1)
	completeByState bool // R5 asks whether the job runs, not who runs it: River's own completion
	closeByDaemon   bool // R5 finds its attempt by number and daemon: enough while a daemon takes a message once
}

// world is all that a schedule depends on: the database, where the worker of
// each daemon stands, and what the next hop has really taken. It is a value, so
// that worlds can be compared and be keys.
type world struct {
	job     jobRow
	ledger  [mostAttempts]attemptRow // in the order of their inserts
	live    [mostWorkers]bool        // by daemon: whether the lease counts, for the database
	workers [mostWorkers]worker
	copies  [mostAttempts]uint8 // numbers of the attempts that the next hop took, in order
}

// jobRow is the job together with the status of its message.
type jobRow struct {
	state   jobState
	attempt uint8
	owner   uint8 // while running
}

type jobState uint8

const (
	available jobState = iota
	running
	completed // and the message sent
	held
)

// attemptRow is a row of the ledger; number 0 is none.
type attemptRow struct {
	number     uint8
	outcome    outcome
	wasUnknown bool
	worker     uint8
}

type outcome uint8

const (
	stillOpen outcome = iota
	accepted
	deferred
	unknown
	heldUnknown // unknown, and a human is to decide
)

// worker has the job in hand, or nothing.
type worker struct {
	at      place
	attempt uint8   // of the job
	number  uint8   // of the attempt in the ledger
	reply   outcome // while closing
}

// place is the transaction or the network step that a worker does next. Between
// any two it may be paused for as long as it takes, or crash.
type place uint8

const (
	idle place = iota
	opening
	handingOver
	atTheDot
	closing
	returning // to River, which then changes the job
	gone
)

// daemon is where worker i runs.
func (r rules) daemon(i int) int {
	if r.siblings {
		return i / 2
	}
	return i
}

// mine says whether the job is still the one that worker i has in hand: running,
// in this attempt, by this daemon.
func (r rules) mine(w world, i int) bool {
	return w.job == jobRow{running, w.workers[i].attempt, uint8(r.daemon(i))}
}

// anyAttempt says whether is holds for a row of the ledger.
func (w world) anyAttempt(is func(attemptRow) bool) bool {
	for _, a := range w.ledger {
		if a.number > 0 && is(a) {
			return true
		}
	}
	return false
}

func isOpen(a attemptRow) bool     { return a.outcome == stillOpen }
func isAccepted(a attemptRow) bool { return a.outcome == accepted }
func isUnknown(a attemptRow) bool  { return a.outcome == unknown || a.outcome == heldUnknown }

// usedUp says whether no repeat is left (R2).
func (r rules) usedUp(w world) bool {
	if r.hold {
		return w.anyAttempt(isUnknown)
	}
	n := 0
	for _, a := range w.ledger {
		if a.wasUnknown {
			n++
		}
	}
	return n > r.maxUnknown
}

// lastNumber is the highest number in the ledger.
func (w world) lastNumber() uint8 {
	last := uint8(0)
	for _, a := range w.ledger {
		last = max(last, a.number)
	}
	return last
}

// move puts worker i at a new place.
func (w world) move(i int, at place) world {
	w.workers[i].at, w.workers[i].reply = at, stillOpen
	if at == idle {
		w.workers[i] = worker{}
	}
	return w
}

// answered is worker i on its way to close, with all that it knows.
func (w world) answered(i int, reply outcome) world {
	w = w.move(i, closing)
	w.workers[i].reply = reply
	return w
}

// end changes the job if it is still in the hands of worker i, which is done. In
// the real world it is River that changes it, if it runs at all.
func (r rules) end(w world, i int, state jobState) world {
	if r.real && state == available {
		return w.move(i, returning)
	}
	if r.mine(w, i) || r.real && w.job.state == running {
		w.job = jobRow{state: state, attempt: w.job.attempt}
	}
	return w.move(i, idle)
}

// lose is the end of a worker that has found out that its right is gone.
func (r rules) lose(w world, i int) world {
	if r.real {
		return w.move(i, returning)
	}
	return w.move(i, gone)
}

// closeOpen makes every open attempt unknown, as closeDead does (R2).
func (w world) closeOpen() world {
	for i, a := range w.ledger {
		if a.number > 0 && isOpen(a) {
			w.ledger[i].outcome, w.ledger[i].wasUnknown = unknown, true
		}
	}
	return w
}

// holdAll is closeOpen for the policy hold.
func (w world) holdAll() world {
	w = w.closeOpen()
	for i, a := range w.ledger {
		if a.outcome == unknown {
			w.ledger[i].outcome, w.ledger[i].wasUnknown = heldUnknown, true
		}
	}
	return w
}

// insert adds an attempt of worker i to the ledger, if there is room.
func (w world) insert(i int, o outcome) world {
	for row := range w.ledger {
		if w.ledger[row].number == 0 {
			w.ledger[row] = attemptRow{number: w.workers[i].number, outcome: o, worker: uint8(i)}
			break
		}
	}
	return w
}

// full says whether the model ends here, because there is no room for more.
func (w world) full() bool { return w.ledger[mostAttempts-1].number > 0 }

// accept is the next hop taking one more copy from worker i.
func (w world) accept(i int) world {
	for c := range w.copies {
		if w.copies[c] == 0 {
			w.copies[c] = w.workers[i].number
			break
		}
	}
	return w
}
