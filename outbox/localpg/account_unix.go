//go:build unix

package localpg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is who PostgreSQL runs as: ourselves, unless that is root.
type account struct {
	credential *syscall.Credential
}

// findAccount takes for root the user postgres, or else nobody.
func findAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr == nil && gidErr == nil {
			return account{&syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
		}
	}
	return account{}, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody")
}

// orOwner is the account that the data in a folder belong to, if there are any:
// on a machine that got a user postgres meanwhile, nobody keeps what was nobody's.
func (a account) orOwner(path string) account {
	info, err := os.Stat(dataIn(path))
	if err != nil || a.credential == nil {
		return a
	}
	owner := info.Sys().(*syscall.Stat_t)
	if owner.Uid == 0 {
		return a
	}
	return account{&syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
}

// own makes the server's user the owner of a file.
func (a account) own(path string) error {
	if a.credential == nil {
		return nil
	}
	return os.Chown(path, int(a.credential.Uid), int(a.credential.Gid))
}

// folderMode is the mode of folders that the server's user must get through.
func (a account) folderMode() fs.FileMode {
	if a.credential == nil {
		return 0o700
	}
	return 0o755 // the data in it are 0700
}

// letIn opens a folder of ours to the server's user, if that is another one than
// ourselves, and makes sure that it can get there.
func (a account) letIn(path string) error {
	if a.credential == nil {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if !a.mayEnter(info) {
		if err := os.Chmod(path, info.Mode().Perm()|0o011); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
	}
	return a.reach(path)
}

// reach makes sure that the server's user can enter a folder and all above it.
func (a account) reach(path string) error {
	if a.credential == nil {
		return nil
	}
	for ; ; path = filepath.Dir(path) {
		if info, err := os.Stat(path); err == nil && !a.mayEnter(info) {
			return fmt.Errorf("PostgreSQL cannot run as root, and its user cannot enter %s: name a directory elsewhere", path)
		}
		if path == filepath.Dir(path) {
			return nil
		}
	}
}

func (a account) mayEnter(info fs.FileInfo) bool {
	mode, owner := info.Mode().Perm(), info.Sys().(*syscall.Stat_t)
	switch {
	case owner.Uid == a.credential.Uid:
		return mode&0o100 != 0
	case owner.Gid == a.credential.Gid:
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}

// isOurs says whether a path is a folder, and no link to one, that belongs to us.
func isOurs(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir() && int(info.Sys().(*syscall.Stat_t).Uid) == os.Geteuid()
}
