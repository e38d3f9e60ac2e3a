//go:build !unix

package localpg

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
)

// On other systems there is nothing but the error of findAccount.

type account struct{}

func findAccount() (account, error) {
	return account{}, fmt.Errorf("%w\n(on %s only the one that runs already)", ErrNoBinaries, runtime.GOOS)
}

func (a account) orOwner(string) account      { return a }
func (account) own(string) error              { return nil }
func (account) folderMode() fs.FileMode       { return 0o700 }
func (account) letIn(string) error            { return nil }
func (account) reach(string) error            { return nil }
func (account) run(*exec.Cmd) (string, error) { return "", ErrNoBinaries }
func memoryFolder() string                    { return "" }
func isOurs(string) bool                      { return false }
func processLives(int) bool                   { return false }
func mayWorkIn(int, string) bool              { return false }
func lockFile(string) (*os.File, error)       { return nil, ErrNoBinaries }
func (*process) stop(context.Context) error   { return nil }
func (*process) crash() error                 { return nil }

type process struct{ done chan struct{} }

func startProcess(string, []string, string, string, account) (*process, error) {
	return nil, ErrNoBinaries
}
