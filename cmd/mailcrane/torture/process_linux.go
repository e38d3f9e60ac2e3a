package torture

import "syscall"

// dieWithParent makes the kernel kill a daemon when this program is gone, however
// it went.
func dieWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGKILL }
