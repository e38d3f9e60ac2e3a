package outboxtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/migrations"
	"github.com/mailcrane/mailcrane/outbox/localpg"
)

// testServer is the server of this test program.
type testServer struct {
	start    func() (running, error)
	template func() (string, error) // the name of the migrated database
}

// running is a server that answers.
type running struct {
	url  *url.URL
	copy string // how CREATE DATABASE is to copy a template, or empty
}

// with is the URL of a database.
func (r running) with(database string) string {
	u := *r.url
	u.Path = "/" + database
	return u.String()
}

// server starts the server and makes the template when they are first needed.
//
//nolint:gochecknoglobals // a test program has one server, and no place to stop it: the server ends with the program
var server = sync.OnceValue(func() *testServer {
	s := &testServer{}
	s.start = sync.OnceValues(startServer)
	s.template = sync.OnceValues(s.makeTemplate)
	return s
})

// empty is the template without the schema, and without what the server's owner
// may have put into template1.
func empty() (string, error) { return "template0", nil }

func startServer() (running, error) {
	if given := os.Getenv("TEST_DATABASE_URL"); given != "" {
		u, err := url.Parse(given)
		if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" { // the error may hold the password
			return running{}, errors.New("TEST_DATABASE_URL is not of the form postgres://user:password@host:port/database")
		}
		return running{url: u}, nil
	}
	pg, err := localpg.Start(context.Background(), localpg.Config{
		Ephemeral: true,
		NoFsync:   true,
		Settings: map[string]string{ // small, because every package that is tested has a server
			"max_connections": "500",
			"shared_buffers":  "32MB",
			"min_wal_size":    "32MB",
			"max_wal_size":    "64MB",
		},
	})
	if err != nil {
		return running{}, err
	}
	u, err := url.Parse(pg.URL())
	if err != nil {
		return running{}, err
	}
	if strings.HasPrefix(pg.Version(), "14") {
		return running{url: u}, nil
	}
	return running{url: u, copy: " STRATEGY file_copy"}, nil // costs a checkpoint, which is nothing without fsync, and writes no log
}

// makeTemplate makes the database that all others are copies of. Its name holds a
// hash of the migrations, so that on a server that stays no test gets a schema of
// yesterday; an advisory lock keeps test programs from making it at the same time.
func (s *testServer) makeTemplate() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	hash, err := hashOf(migrations.FS)
	if err != nil {
		return "", err
	}
	name := "mailcrane_template_" + hash[:12]
	conn, err := s.connect(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx) //nolint:errcheck // the lock ends with it
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(hashtextextended('mailcrane test template', 0))`); err != nil {
		return "", fmt.Errorf("lock the template: %w", err)
	}
	if err := sweep(ctx, conn); err != nil {
		return "", fmt.Errorf("drop databases of killed tests: %w", err)
	}
	var ready bool // a template is marked as one only once it is complete
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)`, name).Scan(&ready); err != nil {
		return "", fmt.Errorf("look for the template: %w", err)
	}
	if ready {
		return name, nil
	}
	if err := s.migrate(ctx, conn, name); err != nil {
		return "", fmt.Errorf("make the template: %w", err)
	}
	return name, nil
}

func (s *testServer) migrate(ctx context.Context, conn *pgx.Conn, name string) error {
	for _, statement := range []string{"DROP DATABASE IF EXISTS " + name, "CREATE DATABASE " + name + " ENCODING 'UTF8' TEMPLATE template0"} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	r, err := s.start()
	if err != nil {
		return err
	}
	if err := migrations.Up(ctx, r.with(name)); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "ALTER DATABASE "+name+" IS_TEMPLATE true ALLOW_CONNECTIONS false")
	return err
}

// The name of a test's database holds the second in which it was made.
const testPrefix = "mailcrane_test_"

func testName() string {
	return testPrefix + strconv.FormatInt(time.Now().Unix(), 10) + "_" + strings.ToLower(rand.Text()[:16])
}

// sweep drops what test programs that were killed have left on a server that
// stays: the tests' databases that are older than any test.
func sweep(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `SELECT datname FROM pg_database WHERE datname ~ ('^' || $1 || '[0-9]+_[a-z0-9]+$')`, testPrefix)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		made, _, _ := strings.Cut(strings.TrimPrefix(name, testPrefix), "_")
		second, err := strconv.ParseInt(made, 10, 64)
		if err != nil || time.Since(time.Unix(second, 0)) < 24*time.Hour {
			continue
		}
		if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			return err
		}
	}
	return nil
}

// create copies a template.
func (s *testServer) create(ctx context.Context, template string) (*database, error) {
	r, err := s.start()
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	name := testName()
	if err := s.exec(ctx, "CREATE DATABASE "+name+" ENCODING 'UTF8' TEMPLATE "+template+r.copy); err != nil {
		return nil, err
	}
	return &database{server: s, name: name, url: r.with(name)}, nil
}

func (s *testServer) exec(ctx context.Context, statement string) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // all has been said
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

func (s *testServer) connect(ctx context.Context) (*pgx.Conn, error) {
	r, err := s.start()
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	conn, err := pgx.Connect(ctx, r.url.String())
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn, nil
}

func hashOf(files fs.FS) (string, error) {
	hash := sha256.New()
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(files, path)
		fmt.Fprintf(hash, "%s %d\n%s", path, len(content), content)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read the migrations: %w", err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
