package outbox_test

// emit takes a world that can come next, the step that leads there, and who
// takes it: a worker or, from mostWorkers on, a daemon.
type emit func(step string, who int, next world)

// steps emits everything that can happen next. Nothing is assumed about time: a
// lease may be over at any moment, of a daemon that is doing fine as well.
func (r rules) steps(w world, emit emit) {
	for i := range r.workers {
		at := w.workers[i].at
		if at != idle && at != gone {
			emit("crash", i, w.move(i, gone))
		}
		switch at {
		case idle:
			r.fetch(w, i, emit)
		case opening:
			r.open(w, i, emit)
		case handingOver:
			r.handover(w, i, emit)
		case atTheDot:
			r.dot(w, i, emit)
		case closing:
			r.close(w, i, emit)
		case returning:
			r.snooze(w, i, emit)
		}
	}
	for d := range r.daemon(r.workers-1) + 1 {
		next := w
		next.live[d] = !w.live[d]
		if w.live[d] {
			emit("lease over", mostWorkers+d, next)
		} else if r.real {
			emit("lease back", mostWorkers+d, next)
		}
	}
	if w.job.state == running && !w.live[w.job.owner] {
		next := w
		next.job = jobRow{state: available, attempt: w.job.attempt}
		emit("reap", mostWorkers+int(w.job.owner), next)
	}
}

func (r rules) fetch(w world, i int, emit emit) {
	if w.job.state != available || w.job.attempt == mostAttempts || w.full() {
		return
	}
	w.job = jobRow{running, w.job.attempt + 1, uint8(r.daemon(i))}
	w.workers[i] = worker{at: opening, attempt: w.job.attempt, number: w.job.attempt}
	if r.noLedger {
		w.workers[i].at = atTheDot
	}
	emit("fetch", i, w)
}

func (r rules) open(w world, i int, emit emit) {
	alive := func(a attemptRow) bool { return isOpen(a) && w.live[r.daemon(int(a.worker))] }
	if r.real {
		w.workers[i].number = w.lastNumber() + 1
	}
	switch closed := w.closeOpen(); {
	case !r.noRecheck && w.anyAttempt(isAccepted):
		emit("open R1: already accepted", i, r.end(w, i, completed))
	case w.anyAttempt(alive):
		emit("open R2: open attempt of a live instance", i, r.end(w, i, available))
	case r.hold && r.usedUp(closed):
		emit("open R2: closeDead, held", i, r.end(w.holdAll(), i, held))
	case r.usedUp(closed):
		emit("open R2: closeDead, held", i, r.end(closed, i, held))
	case closed != w:
		emit("open R2: closeDead", i, closed.move(i, handingOver))
	default:
		emit("open: goes on", i, w.move(i, handingOver))
	}
}

func (r rules) handover(w world, i int, emit emit) {
	if r.real {
		emit("handover: not reached, or failed", i, w.answered(i, deferred))
	}
	sameNumber := func(a attemptRow) bool { return a.number == w.workers[i].number }
	switch {
	case !r.noFence && (!w.live[r.daemon(i)] || !r.mine(w, i)):
		emit("handover R3: refused, lease or job lost", i, r.lose(w, i))
	case !r.noRecheck && w.anyAttempt(isAccepted):
		emit("handover R3: refused, already accepted", i, r.end(w, i, completed))
	case !r.noRecheck && r.usedUp(w):
		emit("handover R3: refused, unknown too often", i, r.end(w, i, held))
	case !r.noUniqueIndex && w.anyAttempt(isOpen):
		emit("handover R3: refused, open attempt", i, r.end(w, i, available))
	case w.anyAttempt(sameNumber):
		emit("handover R3: refused, number taken", i, r.lose(w, i))
	case !w.full():
		w = w.insert(i, stillOpen)
		emit("handover R3: insert attempt", i, w.move(i, atTheDot))
		if r.real {
			emit("handover R3: insert attempt, reply lost", i, w.answered(i, deferred))
		}
	}
}

// dot is the next hop's part: it takes the message or not, and is heard or not.
func (r rules) dot(w world, i int, emit emit) {
	emit("dot: accepted", i, w.accept(i).answered(i, accepted))
	emit("dot: accepted, reply lost", i, w.accept(i).answered(i, unknown))
	emit("dot: deferred", i, w.answered(i, deferred))
	emit("dot: connection lost", i, w.answered(i, unknown))
}

func (r rules) close(w world, i int, emit emit) {
	reply, mine := w.workers[i].reply, r.mine(w, i)
	if r.completeByState {
		mine = w.job.state == running
	}
	w = r.record(w, i, mine)
	next := w.job.state
	switch {
	case reply == accepted && (mine || !r.noLedger && next != running):
		next = completed // the late answer of an attempt is a fact too
	case mine && reply == unknown && r.hold:
		next = held
	case mine && !r.real:
		next = available
	}
	if next != w.job.state {
		w.job = jobRow{state: next, attempt: w.job.attempt}
	}
	switch {
	case r.real && reply != accepted:
		emit("close R5", i, w.move(i, returning))
	case r.real:
		emit("close R5", i, r.end(w, i, completed))
	case mine:
		emit("close R5: mine", i, w.move(i, idle))
	default:
		emit("close R5: late", i, r.lose(w, i))
	}
}

// record writes the outcome into the ledger (R5). The row may be there or not:
// worker i may never have got as far as the handover, or not know.
func (r rules) record(w world, i int, mine bool) world {
	reply, taken := w.workers[i].reply, false
	for row := range w.ledger {
		a := &w.ledger[row]
		if a.number != w.workers[i].number {
			continue
		}
		taken = true
		own := int(a.worker) == i || r.closeByDaemon && r.daemon(int(a.worker)) == r.daemon(i)
		if own && (isOpen(*a) || isUnknown(*a)) {
			a.outcome = reply
			a.wasUnknown = a.wasUnknown || reply == unknown
			if r.hold && mine && reply == unknown {
				a.outcome = heldUnknown
			}
		}
	}
	if !taken && !r.noLedger {
		w = w.insert(i, reply)
	}
	return w
}

// snooze is River's part in the end of a worker.
func (r rules) snooze(w world, i int, emit emit) {
	if w.job.state == running {
		w.job = jobRow{state: available, attempt: w.workers[i].attempt - 1}
	}
	emit("snooze by River", i, w.move(i, idle))
}
