package outboxtest_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox/localpg"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// TestMain lets the test program play another test program: it makes a database,
// says which, and drops it.
func TestMain(m *testing.M) {
	if os.Getenv("OUTBOXTEST_OTHER") != "" {
		if err := otherProgram(context.Background()); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func otherProgram(ctx context.Context) error {
	pool, drop, err := outboxtest.Open(ctx)
	if err != nil {
		return err
	}
	var name, directory string
	if err := pool.QueryRow(ctx, `SELECT current_database(), current_setting('data_directory') FROM mailcrane.message RIGHT JOIN (VALUES (1)) AS v ON true`).Scan(&name, &directory); err != nil {
		return err
	}
	fmt.Println(name, directory)
	return drop()
}

// runOther runs the other program and gives what it said.
func runOther(t *testing.T, environ ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), "OUTBOXTEST_OTHER=1"), environ...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	return string(out)
}

// givenServer is a server that runs already, as far as this package knows.
func givenServer(t *testing.T) *pgx.Conn {
	t.Helper()
	server, err := localpg.Start(t.Context(), localpg.Config{Ephemeral: true, NoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func databases(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT datname FROM pg_database WHERE datname LIKE 'mailcrane\_%' ORDER BY datname`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestGivenServer_isSharedByProgramsThatRunAtOnce(t *testing.T) {
	t.Parallel()
	conn := givenServer(t)
	var programs sync.WaitGroup
	for range 4 {
		programs.Go(func() { runOther(t, "TEST_DATABASE_URL="+conn.Config().ConnString()) })
	}
	programs.Wait()
	names := databases(t, conn)
	if len(names) != 1 || !strings.HasPrefix(names[0], "mailcrane_template_") {
		t.Errorf("left over: %v", names)
	}
}

func TestGivenServer_templateThatWasCutOffIsMadeAgain(t *testing.T) {
	t.Parallel()
	conn := givenServer(t)
	environ := "TEST_DATABASE_URL=" + conn.Config().ConnString()
	runOther(t, environ)
	template := databases(t, conn)[0]
	for _, statement := range []string{
		"ALTER DATABASE " + template + " IS_TEMPLATE false",
		"DROP DATABASE " + template,
		"CREATE DATABASE " + template, // without a schema
	} {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	runOther(t, environ)
}

func TestGivenServer_databasesOfKilledTestsAreDroppedOnceTheyAreOld(t *testing.T) {
	t.Parallel()
	conn := givenServer(t)
	second := func(age time.Duration) string { return fmt.Sprint(time.Now().Add(-age).Unix()) }
	old, young, foreign := "mailcrane_test_"+second(25*time.Hour)+"_abc", "mailcrane_test_"+second(time.Hour)+"_abc", "mailcrane_test_mine"
	for _, name := range []string{old, young, foreign} {
		if _, err := conn.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
			t.Fatal(err)
		}
	}
	runOther(t, "TEST_DATABASE_URL="+conn.Config().ConnString())
	left := strings.Join(databases(t, conn), " ")
	if strings.Contains(left, old) || !strings.Contains(left, young) || !strings.Contains(left, foreign) {
		t.Errorf("left over: %s", left)
	}
}

func TestGivenServer_isRefusedUnlessItsURLIsOne(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "OUTBOXTEST_OTHER=1", "TEST_DATABASE_URL=host=127.0.0.1 password=hush")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not of the form") || strings.Contains(string(out), "hush") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestServer_endsWithTheTestProgramAndLeavesNothing(t *testing.T) {
	t.Parallel()
	if os.Getenv("TEST_DATABASE_URL") != "" {
		t.Skip("that server stays")
	}
	said := strings.Fields(runOther(t))
	if len(said) != 2 {
		t.Fatalf("it said %q", said)
	}
	deadline := time.Now().Add(20 * time.Second)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		if _, err := os.Stat(said[1]); os.IsNotExist(err) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still there", said[1])
		}
		<-ticker.C
	}
}

func TestDatabaseURL_isThatOfAMigratedDatabase(t *testing.T) {
	t.Parallel()
	var url string
	t.Run("while the test runs", func(inner *testing.T) {
		url = outboxtest.DatabaseURL(inner)
		conn, err := pgx.Connect(inner.Context(), url)
		if err != nil {
			inner.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) }) // later than the database goes: a program may hang
		outboxtest.RequireNoneQueued(inner, conn, "")
	})
	if conn, err := pgx.Connect(t.Context(), url); err == nil {
		_ = conn.Close(t.Context())
		t.Error("the database outlives its test")
	}
}
