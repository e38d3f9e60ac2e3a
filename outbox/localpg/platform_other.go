//go:build unix && !linux

package localpg

import "syscall"

// dieWithParent does nothing where the kernel offers nothing: there, it is the
// warden that ends the server.
func dieWithParent(*syscall.SysProcAttr) {}

// mayWorkIn says whether a process may be a server with that data directory.
func mayWorkIn(int, string) bool { return true }

// memoryFolder is a folder that is kept in memory, or empty.
func memoryFolder() string { return "" }
