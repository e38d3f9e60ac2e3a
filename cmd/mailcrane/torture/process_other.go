//go:build unix && !linux

package torture

import "time"

// isStopped gives the signal the time that it takes.
func isStopped(int) bool {
	<-time.After(50 * time.Millisecond)
	return true
}
