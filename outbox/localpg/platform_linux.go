package localpg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// dieWithParent makes the kernel tell the server to shut down when we are gone,
// however we went. SIGINT is PostgreSQL's word for a fast shutdown: it ends its
// children first, which a SIGKILL would leave behind.
func dieWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGINT }

// mayWorkIn says whether a process may be a server with that data directory,
// which is where a server works. A zombie works nowhere.
func mayWorkIn(pid int, data string) bool {
	folder, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	data, err = filepath.EvalSymlinks(data)
	return err != nil || folder == data
}

// memoryFolder is a folder that is kept in memory, if it has room for the servers
// of many tests at once. In most containers it has not.
func memoryFolder() string {
	const folder, tmpfs, enough = "/dev/shm", 0x01021994, 2 << 30
	var info syscall.Statfs_t
	err := syscall.Statfs(folder, &info)
	if room := float64(info.Bavail) * float64(info.Bsize); err != nil || info.Type != tmpfs || room < enough {
		return ""
	}
	return folder
}
