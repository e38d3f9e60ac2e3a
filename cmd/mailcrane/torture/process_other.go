//go:build unix && !linux

package torture

import (
	"syscall"
	"time"
)

// dieWithParent does nothing: what this program leaves behind when it is killed
// has to be ended by hand.
func dieWithParent(*syscall.SysProcAttr) {}

// isStopped gives the signal the time that it takes.
func isStopped(int) bool {
	<-time.After(50 * time.Millisecond)
	return true
}
