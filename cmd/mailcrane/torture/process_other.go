//go:build unix && !linux

package torture

import "syscall"

// dieWithParent does nothing: what this program leaves behind when it is killed
// has to be ended by hand.
func dieWithParent(*syscall.SysProcAttr) {}
