//go:build unix

package localpg_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox/localpg"
)

// realPrograms is the folder of the PostgreSQL that the tests run on.
func realPrograms(t *testing.T) string {
	t.Helper()
	server := start(t, localpg.Config{Ephemeral: true})
	return query(t, server.URL(), `SELECT setting FROM pg_config WHERE name = 'BINDIR'`)
}

// script writes a program into a folder. Another process does the writing: a
// program that is open for writing, be it in a child of another test that has
// only just been forked, cannot be run.
func script(t *testing.T, dir, name, text string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `cat >"$1" && chmod 755 "$1"`, "sh", filepath.Join(dir, name))
	cmd.Stdin = strings.NewReader("#!/bin/sh\n" + text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
}

// serverPID is the process id of a server.
func serverPID(t *testing.T, url string) string {
	t.Helper()
	return query(t, url, `SELECT split_part(pg_read_file('postmaster.pid'), E'\n', 1)`)
}

func stop(t *testing.T, server *localpg.Server) {
	t.Helper()
	if err := server.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStart_asRootDoesNotDependOnTheUmask(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "a", "b")
	cmd, _, _ := otherProgram(t, dir, func(cmd *exec.Cmd) {
		cmd.Args = []string{"sh", "-c", `umask 077; exec "$0"`, cmd.Path}
		cmd.Path = "/bin/sh"
		cmd.Env = append(cmd.Env, "LOCALPG_TEST_STOP=1")
	})
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestStart_isNotMisledByAProcessThatHasTheOldServersID(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	server, err := localpg.Start(t.Context(), localpg.Config{Dir: dir, NoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(dir, "data", "postmaster.pid")
	content, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	stop(t, server)

	owner := info.Sys().(*syscall.Stat_t)
	stranger := exec.CommandContext(t.Context(), "sleep", "600")
	stranger.SysProcAttr = &syscall.SysProcAttr{}
	if os.Geteuid() == 0 {
		stranger.SysProcAttr.Credential = &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}
	}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stranger.Wait() }) // killed with the test's context
	_, rest, _ := bytes.Cut(content, []byte("\n"))
	left := append([]byte(strconv.Itoa(stranger.Process.Pid)+"\n"), rest...)
	if err := errors.Join(os.WriteFile(pidFile, left, 0o600), os.Chown(pidFile, int(owner.Uid), int(owner.Gid))); err != nil {
		t.Fatal(err)
	}
	start(t, localpg.Config{Dir: dir})
}

func TestStart_triesAnotherPortWhenSomebodyWasFaster(t *testing.T) {
	t.Parallel()
	dir, programs := tempDir(t), realPrograms(t)
	script(t, dir, "initdb", `exec `+programs+`/initdb "$@"`)
	script(t, dir, "postgres", `
if [ "$1" != --version ] && [ ! -e `+dir+`/tried/once ]; then
	touch `+dir+`/tried/once
	echo 'LOG:  could not bind IPv4 address "127.0.0.1": Address already in use'
	exit 1
fi
exec `+programs+`/postgres "$@"`)
	if err := errors.Join(os.Mkdir(dir+"/tried", 0o700), os.Chmod(dir+"/tried", 0o777)); err != nil {
		t.Fatal(err)
	}
	start(t, localpg.Config{Ephemeral: true, BinDir: dir})
}

func TestStart_prefersTheProgramsThatCanReadTheData(t *testing.T) {
	t.Parallel()
	dir, newer, programs := tempDir(t), tempDir(t), realPrograms(t)
	server, err := localpg.Start(t.Context(), localpg.Config{Dir: dir, NoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	stop(t, server)
	script(t, newer, "postgres", `echo 'postgres (PostgreSQL) 99.1'`)
	script(t, newer, "initdb", `exit 1`)
	script(t, newer, "pg_config", `echo `+programs)
	cmd, _, _ := otherProgram(t, dir, func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "LOCALPG_TEST_STOP=1", "PATH="+newer+":/usr/bin:/bin")
	})
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestStart_runsAsTheOwnerOfTheData(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root's servers run as another user")
	}
	dir := tempDir(t)
	server, err := localpg.Start(t.Context(), localpg.Config{Dir: dir, NoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	stop(t, server)
	const somebody = 54321
	if out, err := exec.CommandContext(t.Context(), "chown", "-R", fmt.Sprint(somebody), filepath.Join(dir, "data")).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	again := start(t, localpg.Config{Dir: dir})
	info, err := os.Stat("/proc/" + serverPID(t, again.URL()))
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != somebody {
		t.Errorf("the server runs as %d", uid)
	}
}

func TestServer_doesNotInheritTheProgramsSecrets(t *testing.T) {
	t.Parallel()
	cmd, _, url := otherProgram(t, tempDir(t), func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "SMTP_URL=smtp://hush") })
	server := "/proc/" + serverPID(t, url)
	t.Cleanup(func() { // before the directory goes
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		waitGone(t, server)
	})
	environ, err := os.ReadFile(server + "/environ")
	if err != nil {
		t.Skip("no /proc here:", err)
	}
	if strings.Contains(string(environ), "hush") {
		t.Errorf("the server's environment: %q", environ)
	}
}

func TestServer_knowsLettersBeyondASCII(t *testing.T) {
	t.Parallel()
	server := start(t, localpg.Config{Ephemeral: true})
	if got := query(t, server.URL(), `SELECT lower('MÜNCHEN')`); got != "münchen" {
		t.Errorf("lower gives %q", got)
	}
}

func TestStart_sweepsOnlyFoldersOfItsOwnUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs two users")
	}
	temporary := tempDir(t)
	trap, theirs, victim := filepath.Join(temporary, "mailcrane-pg-trap"), filepath.Join(temporary, "mailcrane-pg-theirs"), filepath.Join(temporary, "victim")
	const nobody, endedPID = 65534, "999999999"
	if err := errors.Join(
		os.WriteFile(victim, []byte(endedPID), 0o600),
		os.Mkdir(trap, 0o755), os.Symlink(victim, filepath.Join(trap, "mailcrane.lock")), os.Chown(trap, nobody, nobody),
		os.Mkdir(theirs, 0o755), os.WriteFile(filepath.Join(theirs, "mailcrane.lock"), []byte(endedPID), 0o600), os.Chown(theirs, nobody, nobody),
	); err != nil {
		t.Fatal(err)
	}
	cmd, _, _ := otherProgram(t, "ephemeral", func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "LOCALPG_TEST_STOP=1", "TMPDIR="+temporary)
	})
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if content, err := os.ReadFile(victim); err != nil || string(content) != endedPID {
		t.Errorf("the file that a trap points to now holds %q (%v)", content, err)
	}
	if _, err := os.Stat(theirs); err != nil {
		t.Error(err)
	}
}

func TestStart_asRootFindsATemporaryFolderThatTheServersUserCanReach(t *testing.T) {
	t.Parallel()
	closed := tempDir(t)
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd, _, _ := otherProgram(t, "ephemeral", func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "LOCALPG_TEST_STOP=1", "TMPDIR="+closed)
	})
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestKill9_ephemeralServerLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	cmd, dir, url := otherProgram(t, "ephemeral")
	pid := serverPID(t, url)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	waitGone(t, "/proc/"+pid)
	waitGone(t, dir)
}

func TestKill9_duringInitdbLeavesNoProcess(t *testing.T) {
	t.Parallel()
	dir, programs := tempDir(t), tempDir(t)
	script(t, programs, "initdb", `echo $$ >`+programs+`/out/pid; mv `+programs+`/out/pid `+programs+`/out/initdb; exec sleep 600`)
	script(t, programs, "postgres", `echo 'postgres (PostgreSQL) 15.1'`)
	if err := errors.Join(os.Mkdir(programs+"/out", 0o700), os.Chmod(programs+"/out", 0o777)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "LOCALPG_TEST_DIR="+dir, "PATH="+programs+":/usr/bin:/bin")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(waitForFile(t, programs+"/out/initdb"))
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	waitGone(t, "/proc/"+pid)
	conn, err := pgx.Connect(t.Context(), start(t, localpg.Config{Dir: dir}).URL())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close(t.Context())
}

func waitForFile(t *testing.T, path string) string {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		content, err := os.ReadFile(path)
		if err == nil {
			return string(content)
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-ticker.C
	}
}

// What was committed before the server was killed is there after the next start,
// at the same address.
func TestKill_losesNothingThatWasCommitted(t *testing.T) {
	t.Parallel()
	config := localpg.Config{Dir: filepath.Join(tempDir(t), "new")}
	server, err := localpg.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `CREATE TABLE kept AS SELECT '42' AS n`); err != nil {
		t.Fatal(err)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	again := start(t, config)
	if again.URL() != server.URL() {
		t.Errorf("it was %s, and is %s", server.URL(), again.URL())
	}
	if got := query(t, again.URL(), `SELECT n FROM kept`); got != "42" {
		t.Errorf("got %s", got)
	}
}
