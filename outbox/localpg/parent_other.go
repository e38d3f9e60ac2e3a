//go:build unix && !linux

package localpg

import "syscall"

// dieWithParent does nothing where the kernel offers nothing: there, a server
// survives a kill -9 of this program.
func dieWithParent(*syscall.SysProcAttr) {}
