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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/migrations"
	"github.com/mailcrane/mailcrane/outbox/localpg"
)

// Database gives a test a migrated database of its own, which is dropped when
// the test ends. It costs some 50 ms.
func Database(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	return create(tb, server().template)
}

// EmptyDatabase is [Database] without the schema.
func EmptyDatabase(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	return create(tb, func() (string, error) { return "template1", nil })
}

// Open is [Database] for code that has no test at hand, such as an Example. The
// caller drops the database.
func Open(ctx context.Context) (pool *pgxpool.Pool, drop func() error, err error) {
	template, err := server().template()
	if err != nil {
		return nil, nil, err
	}
	return server().create(ctx, template)
}

func create(tb testing.TB, template func() (string, error)) *pgxpool.Pool {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	name, err := template()
	if err != nil {
		tb.Fatalf("outboxtest: %v", err)
	}
	pool, drop, err := server().create(ctx, name)
	if err != nil {
		tb.Fatalf("outboxtest: %v", err)
	}
	tb.Cleanup(func() {
		if err := drop(); err != nil {
			tb.Errorf("outboxtest: %v", err)
		}
	})
	return pool
}

// testServer is the server of this test program.
type testServer struct {
	url      func() (string, error)
	template func() (string, error)
}

// server starts the server and makes the template when they are first needed.
//
//nolint:gochecknoglobals // a test program has one server, and no place to stop it: the server ends with the program
var server = sync.OnceValue(func() *testServer {
	s := &testServer{}
	s.url = sync.OnceValues(startServer)
	s.template = sync.OnceValues(s.migrateTemplate)
	return s
})

func startServer() (string, error) {
	if given := os.Getenv("TEST_DATABASE_URL"); given != "" {
		return given, nil
	}
	pg, err := localpg.Start(context.Background(), localpg.Config{
		Ephemeral: true,
		NoFsync:   true,
		Settings:  map[string]string{"max_connections": "500", "shared_buffers": "128MB", "synchronous_commit": "on"},
	})
	if err != nil {
		return "", err
	}
	return pg.URL(), nil
}

// migrateTemplate makes the database that all others are copies of. Its name
// holds a hash of the migrations, so that on a server that stays no test gets a
// schema of yesterday; an advisory lock keeps test programs from making it at
// the same time.
func (s *testServer) migrateTemplate() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
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
	var ready bool // a template is marked as one only once it is complete
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)`, name).Scan(&ready); err != nil {
		return "", fmt.Errorf("look for the template: %w", err)
	}
	if ready {
		return name, nil
	}
	for _, statement := range []string{"DROP DATABASE IF EXISTS " + name, "CREATE DATABASE " + name + " ENCODING 'UTF8' TEMPLATE template0"} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return "", fmt.Errorf("make the template: %w", err)
		}
	}
	target, err := s.urlOf(name)
	if err != nil {
		return "", err
	}
	if err := migrations.Up(ctx, target); err != nil {
		return "", fmt.Errorf("make the template: %w", err)
	}
	if _, err := conn.Exec(ctx, "ALTER DATABASE "+name+" IS_TEMPLATE true ALLOW_CONNECTIONS false"); err != nil {
		return "", fmt.Errorf("make the template: %w", err)
	}
	return name, nil
}

// create copies a template.
func (s *testServer) create(ctx context.Context, template string) (*pgxpool.Pool, func() error, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close(ctx) //nolint:errcheck // all has been said
	name := "mailcrane_test_" + strings.ToLower(rand.Text()[:16])
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+template+s.strategy(conn)); err != nil {
		return nil, nil, fmt.Errorf("create a database: %w", err)
	}
	target, err := s.urlOf(name)
	if err != nil {
		return nil, nil, err
	}
	config, err := pgxpool.ParseConfig(target)
	if err != nil {
		return nil, nil, fmt.Errorf("read TEST_DATABASE_URL: %w", err)
	}
	config.MaxConns = 10
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	return pool, func() error { return s.drop(pool, name) }, nil
}

// strategy asks for a copy of files, which is faster than one through the log
// for a database that holds next to nothing, from PostgreSQL 15 on.
func (*testServer) strategy(conn *pgx.Conn) string {
	if version := conn.PgConn().ParameterStatus("server_version"); strings.HasPrefix(version, "14") {
		return ""
	}
	return " STRATEGY file_copy"
}

func (s *testServer) drop(pool *pgxpool.Pool, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	closed := make(chan struct{})
	go func() {
		pool.Close() // waits for connections in use: a test that leaks one must not hang
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		return errors.New("a connection of the pool is still in use at the end of the test")
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // all has been said
	if _, err := conn.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop a database: %w", err)
	}
	return nil
}

func (s *testServer) connect(ctx context.Context) (*pgx.Conn, error) {
	address, err := s.url()
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn, nil
}

// urlOf is the server's URL with another database.
func (s *testServer) urlOf(name string) (string, error) {
	address, err := s.url()
	if err != nil {
		return "", err
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "" {
		return "", errors.New("TEST_DATABASE_URL is not of the form postgres://user:password@host:port/database")
	}
	u.Path = "/" + name
	return u.String(), nil
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
