package torture

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// isStopped says whether all threads of a process are stopped, or there are none.
func isStopped(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid)) // the pattern is well-formed
	return !slices.ContainsFunc(threads, func(path string) bool {
		stat, err := os.ReadFile(path) //nolint:gosec // the kernel's
		_, state, _ := bytes.Cut(stat, []byte(") "))
		return err == nil && !bytes.HasPrefix(state, []byte("T"))
	})
}
