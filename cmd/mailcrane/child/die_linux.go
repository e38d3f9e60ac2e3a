package child

import "syscall"

// DieWithParent makes the kernel kill a child when this program is gone, however
// it went. The parent, for that purpose, is the thread that started the child:
// it has to be kept until then.
func DieWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGKILL }
