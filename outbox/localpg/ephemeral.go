package localpg

import (
	"fmt"
	"os"
	"path/filepath"
)

// ephemeralPrefix begins the names of temporary folders.
const ephemeralPrefix = "mailcrane-pg-"

// makeEphemeral makes a temporary folder that the server's user can reach, in
// memory if inMemory is set and there is plenty of it, and the user has not said
// where temporary folders belong. Making a database means making hundreds of
// files, which takes 20 ms there and up to 300 ms on a disk.
func makeEphemeral(a account, inMemory bool) (string, error) {
	parent := os.TempDir()
	if a.reach(parent) != nil { // it is root's own, as some systems set it up
		parent = "/tmp"
	}
	sweep(parent)
	if memory := memoryFolder(); memory != "" {
		sweep(memory)
		if inMemory && os.Getenv("TMPDIR") == "" {
			parent = memory
		}
	}
	path, err := os.MkdirTemp(parent, ephemeralPrefix)
	if err != nil {
		return "", fmt.Errorf("temporary directory: %w", err)
	}
	return path, nil
}

// sweep removes the ephemeral folders of programs that were killed together with
// everything that could have removed them.
func sweep(parent string) {
	folders, _ := filepath.Glob(filepath.Join(parent, ephemeralPrefix+"*")) // fails only on a malformed pattern
	for _, folder := range folders {
		if isOurs(folder) { // in a folder of somebody else, names may lead anywhere
			removeIfLeft(folder)
		}
	}
}

// removeIfLeft removes a folder whose program has written its process id into the
// lock, and holds it no longer. One without that is only just being made.
func removeIfLeft(folder string) {
	path := filepath.Join(folder, lockName)
	if owner, err := os.ReadFile(path); err != nil || len(owner) == 0 { //nolint:gosec // a file of ours
		return
	}
	lock, err := lockFile(path)
	if err != nil {
		return
	}
	d := &directory{path: folder, lock: lock}
	pid := d.predecessor()
	_ = d.close(pid == 0 || !processLives(pid) || !mayWorkIn(pid, d.data())) // else next time
}
