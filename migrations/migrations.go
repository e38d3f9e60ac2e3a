// Package migrations holds the schema of Mailcrane and puts it into a database.
//
// The folder is laid out for golang-migrate: its migrate command works on the
// files as they are, and [Up], [Down] and [Status] apply the same files from
// within the program. Files 1 to 8 are the versions of River's schema that the
// River in go.mod asks for, rendered for the schema mailcrane; the files after
// them are Mailcrane's own.
//
// Every file is one transaction and notes its number in mailcrane.migration, so
// what the schema says of itself is always true. The version table of
// golang-migrate is only bookkeeping: when the two disagree, the schema wins.
//
// All objects live in the schema mailcrane: Down to nothing, or DROP SCHEMA
// mailcrane CASCADE, removes them all and touches nothing else.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/golang-migrate/migrate/v4"
	pgxmigrate "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// FS holds the migration files.
//
//go:embed *.sql
var FS embed.FS

// versionTable is where golang-migrate keeps its place, unless the database was
// set up with another one. Its own default, schema_migrations, may belong to
// the application.
const versionTable = "mailcrane_schema_migrations"

// Latest is the schema version that this program needs: the number of the last
// migration file.
func Latest() int {
	latest := 0
	files, _ := fs.Glob(FS, "*.up.sql") // fails only on a malformed pattern
	for _, name := range files {
		number, _, _ := strings.Cut(name, "_")
		n, err := strconv.Atoi(number)
		if err != nil {
			panic("migrations: file name without a number: " + name)
		}
		latest = max(latest, n)
	}
	return latest
}

// Up brings the database at databaseURL to the latest version. On a database
// that is there already it does nothing.
func Up(ctx context.Context, databaseURL string) error {
	return run(ctx, databaseURL, func(m *migrate.Migrate, found int) error {
		if found > Latest() {
			return &VersionError{Found: found}
		}
		return m.Up()
	})
}

// Down takes back the given number of versions, or all of them for steps below
// one. The data in the tables that go are lost.
func Down(ctx context.Context, databaseURL string, steps int) error {
	return run(ctx, databaseURL, func(m *migrate.Migrate, found int) error {
		switch {
		case found > Latest():
			return &VersionError{Found: found}
		case found == 0:
			return nil
		case steps < 1 || steps >= found:
			return m.Down()
		default:
			return m.Steps(-steps)
		}
	})
}

// run opens golang-migrate on the database, sets its bookkeeping straight and
// lets step work. It stops between two files when ctx ends.
func run(ctx context.Context, databaseURL string, step func(m *migrate.Migrate, found int) error) error {
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return fmt.Errorf("read database URL: %w", err)
	}
	delete(config.RuntimeParams, "x-migrations-table") // understood by golang-migrate's command, not by PostgreSQL
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing was left unsaid
	found, err := Version(ctx, conn)
	if err != nil {
		return err
	}
	table, err := findVersionTable(ctx, conn, found)
	if err != nil {
		return err
	}

	db := stdlib.OpenDB(*config)
	defer db.Close() //nolint:errcheck // nothing was left unsaid to a database that is closed
	driver, err := pgxmigrate.WithInstance(db, &pgxmigrate.Config{MigrationsTable: table})
	if err != nil {
		return fmt.Errorf("prepare migration: %w", err)
	}
	source, err := iofs.New(FS, ".")
	if err != nil {
		return fmt.Errorf("read migration files: %w", err)
	}
	m, err := migrate.NewWithInstance("embedded", source, "postgres", driver)
	if err != nil {
		return fmt.Errorf("prepare migration: %w", err)
	}
	defer m.Close() //nolint:errcheck // as above
	stop := context.AfterFunc(ctx, func() { m.GracefulStop <- true })
	defer stop()

	if err := agree(m, found); err != nil {
		return err
	}
	if err := step(m, found); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return fmt.Errorf("migrate: %w", err)
	}
	return ctx.Err()
}

// agree sets golang-migrate's bookkeeping to what the schema says of itself:
// after a restore from a dump, or after a file that failed (which leaves the
// schema as it was, and golang-migrate's table "dirty").
func agree(m *migrate.Migrate, found int) error {
	version, dirty, err := m.Version()
	if errors.Is(err, migrate.ErrNilVersion) {
		version = 0
	} else if err != nil {
		return fmt.Errorf("read migration version: %w", err)
	}
	if int(version) == found && !dirty {
		return nil
	}
	force := found
	if found == 0 {
		force = -1 // golang-migrate's word for "nothing applied"
	}
	if err := m.Force(force); err != nil {
		return fmt.Errorf("correct migration version to %d: %w", found, err)
	}
	return nil
}

// findVersionTable says which table golang-migrate is to use: our own, or its
// default one when the schema was evidently set up with that.
func findVersionTable(ctx context.Context, conn *pgx.Conn, found int) (string, error) {
	const fallback = "schema_migrations"
	var own, other bool
	err := conn.QueryRow(ctx, `
		SELECT to_regclass(quote_ident(current_schema()) || '.' || $1) IS NOT NULL,
		       to_regclass(quote_ident(current_schema()) || '.' || $2) IS NOT NULL`,
		versionTable, fallback).Scan(&own, &other)
	if err != nil {
		return "", fmt.Errorf("look for the migration version table: %w", err)
	}
	if own || !other || found == 0 {
		return versionTable, nil
	}
	var matches bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM schema_migrations WHERE version = $1 AND NOT dirty)`, found).Scan(&matches)
	if err != nil || !matches {
		return versionTable, nil //nolint:nilerr // a table of that name and another shape belongs to the application
	}
	return fallback, nil
}
