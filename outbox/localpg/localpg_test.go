//go:build unix

package localpg_test

import (
	"bufio"
	"context"
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

// TestMain lets the test program play another program that starts a server, says
// where it is, and waits to be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("LOCALPG_TEST_DIR"); dir != "" {
		config := localpg.Config{Dir: dir, NoFsync: true}
		if dir == "ephemeral" {
			config = localpg.Config{Ephemeral: true, NoFsync: true}
		}
		server, err := localpg.Start(context.Background(), config)
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(server.Dir())
		fmt.Println(server.URL())
		if os.Getenv("LOCALPG_TEST_STOP") != "" {
			if err := server.Stop(context.Background()); err != nil {
				fmt.Println("error:", err)
				os.Exit(1)
			}
			os.Exit(0)
		}
		select {}
	}
	os.Exit(m.Run())
}

// otherProgram starts the test program as one that runs a server, and gives its
// directory and its URL.
func otherProgram(t *testing.T, dir string, change ...func(*exec.Cmd)) (cmd *exec.Cmd, directory, url string) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "LOCALPG_TEST_DIR="+dir)
	for _, c := range change {
		c(cmd)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	directory = lines.Text()
	if text, failed := strings.CutPrefix(directory, "error: "); failed {
		_ = cmd.Wait()
		t.Fatal("the other program failed: ", text)
	}
	lines.Scan()
	return cmd, directory, lines.Text()
}

func start(t *testing.T, config localpg.Config) *localpg.Server {
	t.Helper()
	config.NoFsync = true
	server, err := localpg.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return server
}

// tempDir is one that the server's user can reach: the tests' own are not, for
// root.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "localpg-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func query(t *testing.T, url, statement string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // the test is over
	var answer string
	if err := conn.QueryRow(t.Context(), statement).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestStart_keepsDataAndPortForTheNextTime(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "new")
	var urls []string
	for i, statement := range []string{`CREATE TABLE kept AS SELECT 'data' AS v; SELECT 'made'`, `SELECT v FROM kept`} {
		server, err := localpg.Start(t.Context(), localpg.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		urls = append(urls, server.URL())
		conn, err := pgx.Connect(t.Context(), server.URL())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Error(i, err)
		}
		if fsync := query(t, server.URL(), `SHOW fsync`); fsync != "on" {
			t.Error("fsync is", fsync)
		}
		for range 2 { // with a connection open, and once too often
			if err := server.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		}
		_ = conn.Close(t.Context())
	}
	if urls[0] != urls[1] {
		t.Errorf("the URL changed from %s to %s", urls[0], urls[1])
	}
}

func TestStart_takesARelativeDirectory(t *testing.T) {
	dir := tempDir(t)
	t.Chdir(dir)
	server := start(t, localpg.Config{Dir: "here"})
	if server.Dir() != filepath.Join(dir, "here") {
		t.Errorf("the data are in %s", server.Dir())
	}
}

func TestStart_wantsThePassword(t *testing.T) {
	t.Parallel()
	server := start(t, localpg.Config{Ephemeral: true})
	config, err := pgx.ParseConfig(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	config.Password = "guess"
	if conn, err := pgx.ConnectConfig(t.Context(), config); err == nil {
		_ = conn.Close(t.Context())
		t.Error("any password will do")
	}
	info, err := os.Stat(filepath.Join(server.Dir(), "password"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the password's file: %v, %v", info.Mode(), err)
	}
	if user := query(t, server.URL(), `SELECT current_database()`); user != "mailcrane" {
		t.Error("database", user)
	}
}

func TestStop_ofAnEphemeralServerLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	server, err := localpg.Start(t.Context(), localpg.Config{Ephemeral: true, NoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(server.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", server.Dir(), err)
	}
}

func TestStart_refusesADirectoryInUse(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	start(t, localpg.Config{Dir: dir})
	if _, err := localpg.Start(t.Context(), localpg.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
}

func TestStart_refusesAForeignDirectory(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	file := filepath.Join(dir, "thesis.txt")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := localpg.Start(t.Context(), localpg.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Error(err)
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "precious" {
		t.Error(string(content), err)
	}
}

func TestStart_refusesDataOfAnotherMajorVersionAndKeepsThem(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	server, err := localpg.Start(t.Context(), localpg.Config{Dir: dir, NoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	version := filepath.Join(dir, "data", "PG_VERSION")
	if err := os.WriteFile(version, []byte("9.6\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := localpg.Start(t.Context(), localpg.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "written by PostgreSQL 9.6") {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "base")); err != nil {
		t.Error("the data are gone:", err)
	}
}

func TestStart_withoutProgramsSaysHowToGetThem(t *testing.T) {
	t.Parallel()
	_, err := localpg.Start(t.Context(), localpg.Config{BinDir: t.TempDir()})
	if !errors.Is(err, localpg.ErrNoBinaries) {
		t.Fatal(err)
	}
	for _, way := range []string{"apt-get install postgresql", "PATH", "DATABASE_URL", "npm"} {
		if !strings.Contains(err.Error(), way) {
			t.Errorf("it does not name %s: %v", way, err)
		}
	}
}

func TestStart_takesUpAfterAnInitdbThatWasCutOff(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	half := filepath.Join(dir, "unfinished-1")
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "mailcrane.lock"), nil, 0o600), os.MkdirAll(filepath.Join(half, "base"), 0o755)); err != nil {
		t.Fatal(err)
	}
	start(t, localpg.Config{Dir: dir})
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", half, err)
	}
}

func TestStart_saysWhenTheServersUserCannotReachTheDirectory(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root's servers run as another user")
	}
	closed := tempDir(t)
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := localpg.Start(t.Context(), localpg.Config{Dir: filepath.Join(closed, "pg")})
	if err == nil || !strings.Contains(err.Error(), "cannot enter "+closed) {
		t.Error(err)
	}
}

func TestKill9_ofTheParentLeavesNoServerAndTheDataAreUsable(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	cmd, _, url := otherProgram(t, dir)
	pid := query(t, url, `SELECT split_part(pg_read_file('postmaster.pid'), E'\n', 1)`)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	start(t, localpg.Config{Dir: dir}) // at once: it has to wait for the old server by itself
	waitGone(t, "/proc/"+pid)
}

func TestKill9_leftoversOfAnEphemeralServerAreRemovedByTheNext(t *testing.T) {
	t.Parallel()
	cmd, dir, url := otherProgram(t, "ephemeral")
	pid := serverPID(t, url)
	for _, victim := range append(wardens(t, dir), cmd.Process.Pid) { // all at once, as when a container ends
		if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait()
	waitGone(t, "/proc/"+pid)
	start(t, localpg.Config{Ephemeral: true})
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", dir, err)
	}
}

func TestStop_endsTheWardenToo(t *testing.T) {
	t.Parallel()
	server := start(t, localpg.Config{Ephemeral: true})
	if n := len(wardens(t, server.Dir())); n != 1 {
		t.Fatalf("%d wardens", n)
	}
	stop(t, server)
	if n := len(wardens(t, server.Dir())); n != 0 {
		t.Errorf("%d wardens are left", n)
	}
}

// wardens are the processes that would remove a folder.
func wardens(t *testing.T, dir string) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(files) == 0 {
		t.Skip("no /proc here:", err)
	}
	for _, file := range files {
		content, _ := os.ReadFile(file) // it may have ended meanwhile
		if strings.Contains(string(content), "mailcrane-pg-warden") && strings.Contains(string(content), dir) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestStart_worksWithoutRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("every other test runs without root here")
	}
	dir := tempDir(t)
	const nobody = 65534
	program := filepath.Join(dir, "program") // the test program itself may be out of nobody's reach
	content, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(program, content, 0o755), os.Chmod(dir, 0o755), os.Mkdir(dir+"/home", 0o700), os.Chown(dir+"/home", nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	cmd, _, _ := otherProgram(t, filepath.Join(dir, "home", "pg"), func(cmd *exec.Cmd) {
		cmd.Path = program
		cmd.Dir = "/"
		cmd.Env = append(cmd.Env, "LOCALPG_TEST_STOP=1", "HOME="+dir+"/home")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	})
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func waitGone(t *testing.T, path string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still there", path)
		}
		<-ticker.C
	}
}
