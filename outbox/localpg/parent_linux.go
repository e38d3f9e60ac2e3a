package localpg

import "syscall"

// dieWithParent makes the kernel tell the server to shut down when we are gone,
// however we went. SIGINT is PostgreSQL's word for a fast shutdown: it ends its
// children first, which a SIGKILL would leave behind.
func dieWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGINT }
