package bench

import (
	"syscall"
	"time"
)

// waitUntil is late by a tenth of a millisecond. The timers of Go, which poll the
// network in whole milliseconds, are late by up to one, and what is measured from the
// due moment would be slower by that.
func waitUntil(due time.Time) {
	wait(time.Until(due) - 2*time.Millisecond)
	for left := time.Until(due); left > 0; left = time.Until(due) {
		nap := syscall.NsecToTimespec(int64(left))
		_ = syscall.Nanosleep(&nap, nil) // a signal may cut it short
	}
}
