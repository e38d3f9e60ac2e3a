//go:build unix && !linux

package child

import "syscall"

// DieWithParent does nothing: what this program leaves behind when it is killed
// has to be ended by hand.
func DieWithParent(*syscall.SysProcAttr) {}
