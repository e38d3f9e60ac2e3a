package localpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Config says which server to run. Its zero value is a server that keeps its
// data in the usual place of the user.
type Config struct {
	// Dir is where the data are. Default: /var/lib/mailcrane/postgresql for root,
	// else mailcrane/postgresql below $XDG_DATA_HOME or ~/.local/share.
	Dir string

	Ephemeral bool              // keep the data in a temporary directory instead, which goes with the server
	BinDir    string            // folder of PostgreSQL's programs; default: look for them
	NoFsync   bool              // faster and not safe: for tests; if ephemeral too, the data may be in memory
	Port      int               // default: that of the last time, or any free one
	Settings  map[string]string // more settings for postgresql.conf
	Logger    *slog.Logger      // default: discard
}

// Server is a PostgreSQL that runs until [Server.Stop].
type Server struct {
	dir       *directory
	process   *process
	url       string
	version   string
	ephemeral bool
}

// database is the one that is made for the caller, and superuser its owner.
const database, superuser = "mailcrane", "postgres"

// Start runs a server and waits until it answers: about a second in a new
// directory, a tenth of that in a used one.
//
// [ErrNoBinaries] means that there is no PostgreSQL on this machine.
func Start(ctx context.Context, config Config) (*Server, error) {
	config.Logger = cmp.Or(config.Logger, slog.New(slog.DiscardHandler))
	account, err := findAccount()
	if err != nil {
		return nil, err
	}
	path, err := config.place(account)
	if err != nil {
		return nil, err
	}
	s, err := startIn(ctx, config, path, account.orOwner(path))
	if err != nil && config.Ephemeral {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return s, err
}

func startIn(ctx context.Context, config Config, path string, a account) (*Server, error) {
	major, err := majorIn(path)
	if err != nil {
		return nil, err
	}
	b, err := findBinaries(ctx, config, major)
	if err != nil {
		return nil, err
	}
	dir, err := openDirectory(path, a)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, version: b.version, ephemeral: config.Ephemeral}
	if err := s.start(ctx, config, b, a); err != nil {
		return nil, errors.Join(err, dir.close(config.Ephemeral))
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, config Config, b binaries, a account) error {
	began := time.Now()
	if err := s.dir.prepare(ctx, b, a, !config.NoFsync); err != nil {
		return err
	}
	password, err := s.dir.password()
	if err != nil {
		return err
	}
	port := config.Port
	for range maxPorts {
		if config.Port == 0 {
			if port, err = s.dir.port(); err != nil {
				return err
			}
		}
		err = s.run(ctx, config, b.path("postgres"), a, address(password, port))
		if config.Port != 0 || !errors.Is(err, errPortTaken) {
			break
		}
	}
	if err != nil {
		return err
	}
	config.Logger.Info("PostgreSQL runs", "version", b.version, "directory", s.dir.path, "port", port, "took_ms", time.Since(began).Milliseconds())
	return nil
}

// maxPorts is how many free ports are tried: between finding one and using it,
// somebody else may take it.
const maxPorts = 5

var errPortTaken = errors.New("the port is in use")

// address is the URL of the server, without a database.
func address(password string, port int) url.URL {
	return url.URL{
		Scheme: "postgres", User: url.UserPassword(superuser, password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), RawQuery: "sslmode=disable",
	}
}

// run starts the server at an address, and waits until it answers.
func (s *Server) run(ctx context.Context, config Config, program string, a account, at url.URL) error {
	arguments := []string{"-D", s.dir.data()}
	settings := config.settings(at.Port())
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		arguments = append(arguments, "-c", name+"="+settings[name])
	}
	remove := ""
	if s.ephemeral {
		remove = s.dir.path
	}
	var err error
	if s.process, err = startProcess(program, arguments, s.dir.log(), remove, a); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	at.Path = "/postgres"
	if err := s.waitUntilReady(ctx, at.String()); err != nil {
		return errors.Join(err, s.process.stop(ctx))
	}
	at.Path = "/" + database
	s.url = at.String()
	return nil
}

// settings are those of the server: small, local and plain.
func (c Config) settings(port string) map[string]string {
	settings := map[string]string{
		"port":                    port,
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "",
		"max_connections":         "200",
		"shared_buffers":          "64MB",
		"log_min_messages":        "warning",
		"log_min_error_statement": "panic", // statements may hold addresses
		"wal_level":               "replica",
		"autovacuum_naptime":      "15s",
		"max_wal_size":            "512MB",
	}
	if c.NoFsync {
		settings["fsync"], settings["full_page_writes"] = "off", "off"
	}
	maps.Copy(settings, c.Settings)
	return settings
}

// waitUntilReady connects until the server answers, and makes the database.
func (s *Server) waitUntilReady(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	go func() {
		select {
		case <-s.process.done:
			cancel() // who answers now is somebody else
		case <-ctx.Done():
		}
	}()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		conn, err := pgx.Connect(ctx, address)
		if err == nil {
			defer conn.Close(ctx) //nolint:errcheck // all has been said
			return s.createDatabase(ctx, conn)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return s.silence(errors.Join(ctx.Err(), err))
		}
	}
}

// silence says why the server does not answer.
func (s *Server) silence(err error) error {
	log := s.dir.logTail()
	select {
	case <-s.process.done:
		if strings.Contains(log, "could not bind") {
			return fmt.Errorf("%w; the log of PostgreSQL says:\n%s", errPortTaken, log)
		}
		return fmt.Errorf("PostgreSQL ended at once; its log says:\n%s", log)
	default:
		return fmt.Errorf("PostgreSQL does not answer: %w; its log says:\n%s", err, log)
	}
}

// createDatabase makes the database, unless it is there: a program that died
// between initdb and here leaves a server without one.
func (s *Server) createDatabase(ctx context.Context, conn *pgx.Conn) error {
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, database).Scan(&exists); err != nil {
		return fmt.Errorf("look for the database: %w", err)
	}
	if exists {
		return nil
	}
	if _, err := conn.Exec(ctx, `CREATE DATABASE `+database); err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	return nil
}

// URL is the connection string of a database of its own, with the password.
func (s *Server) URL() string { return s.url }

// Dir is the directory of the data.
func (s *Server) Dir() string { return s.dir.path }

// Version is the version of the server, such as "17.6".
func (s *Server) Version() string { return s.version }

// Kill ends the server as a crash does: at once, with nothing more written. [Start]
// with the same Dir recovers what was committed.
func (s *Server) Kill() error {
	return errors.Join(s.process.crash(), s.dir.close(false))
}

// Stop shuts the server down, open connections or not, and removes an ephemeral
// directory. When ctx ends first, it kills.
func (s *Server) Stop(ctx context.Context) error {
	return errors.Join(s.process.stop(ctx), s.dir.close(s.ephemeral))
}
