package migrations_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/mailcrane/mailcrane/migrations"
)

var update = flag.Bool("update", false, "write the files of River's migrations instead of comparing them")

// The River in go.mod may know a newer version of its schema, or another text
// of an old one, than the files here: then this test shows the difference, and
// `go test ./migrations -run River -update` writes them.
func TestRiverFiles_areWhatThePinnedRiverRenders(t *testing.T) {
	t.Parallel()
	pool := emptyDatabase(t)
	rendered := renderRiver(t, pool)
	for i, version := range rendered {
		if version.number != i+1 {
			t.Fatalf("River's version %d has place %d", version.number, i+1)
		}
		file := fileNumber(t, version.number)
		for direction, want := range map[string]string{"up": upFile(version, file), "down": downFile(version, file)} {
			name := fmt.Sprintf("%06d_river_v%03d.%s.sql", file, version.number, direction)
			if *update {
				if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
					t.Fatal(err)
				}
				continue
			}
			got, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, string(got)); diff != "" {
				t.Errorf("%s differs from River (-River +file):\n%s", name, diff)
			}
		}
	}
	files, err := filepath.Glob("*_river_v*.up.sql")
	if err != nil || len(files) != len(rendered) {
		t.Errorf("River has %d versions, the folder %d files (%v)", len(rendered), len(files), err)
	}
}

// fileNumber is the number of the file that holds a version of River: that of
// the version for those that came first, and the next free one for a version
// that River has got since.
func fileNumber(t *testing.T, version int) int {
	t.Helper()
	found, err := filepath.Glob(fmt.Sprintf("*_river_v%03d.up.sql", version))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		return migrations.Latest() + 1
	}
	number, err := strconv.Atoi(found[0][:6])
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func TestUp_leavesASchemaThatRiverAccepts(t *testing.T) {
	t.Parallel()
	pool := emptyDatabase(t)
	if err := migrations.Up(t.Context(), url(pool)); err != nil {
		t.Fatal(err)
	}
	result, err := riverMigrator(t, pool).Validate(t.Context(), nil)
	if err != nil || !result.OK {
		t.Fatalf("River says %v, %v", result, err)
	}
}

type riverVersion struct {
	number   int
	name     string
	up, down string
}

// renderRiver lets River show what it would run, for the schema mailcrane.
func renderRiver(t *testing.T, pool *pgxpool.Pool) []riverVersion {
	t.Helper()
	ctx := context.Background()
	if _, err := pool.Exec(ctx, `CREATE SCHEMA mailcrane`); err != nil {
		t.Fatal(err)
	}
	migrator := riverMigrator(t, pool)
	up, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	if err != nil {
		t.Fatal(err)
	}
	down, err := migrator.Migrate(ctx, rivermigrate.DirectionDown, &rivermigrate.MigrateOpts{TargetVersion: -1})
	if err != nil {
		t.Fatal(err)
	}
	versions := make([]riverVersion, len(up.Versions))
	for i, v := range up.Versions {
		versions[i] = riverVersion{number: v.Version, name: v.Name, up: v.SQL}
	}
	for _, v := range down.Versions {
		versions[v.Version-1].down = v.SQL
	}
	return versions
}

func riverMigrator(t *testing.T, pool *pgxpool.Pool) *rivermigrate.Migrator[pgxTx] {
	t.Helper()
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: "mailcrane"})
	if err != nil {
		t.Fatal(err)
	}
	return migrator
}

const notice = `-- River, version %d of its schema: %s.
--
-- The text between the two lines is River's own, rendered for the schema
-- mailcrane, copyright its authors, under the
-- Mozilla Public License 2.0 (https://mozilla.org/MPL/2.0/). It is written by
-- ` + "`go test ./migrations -run River -update`" + `: do not edit it.
`

const begin, end = "-- ---- begin of River's text ----\n", "\n-- ---- end of River's text ----\n"

func upFile(v riverVersion, file int) string {
	var b strings.Builder
	fmt.Fprintf(&b, notice, v.number, v.name)
	if v.number == 1 {
		b.WriteString(`
CREATE SCHEMA IF NOT EXISTS mailcrane;

CREATE TABLE mailcrane.migration (
    version    integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON SCHEMA mailcrane IS 'The transactional outbox: everything of Mailcrane, and the River queue that it uses. DROP SCHEMA mailcrane CASCADE uninstalls it.';
COMMENT ON TABLE mailcrane.migration IS 'One row is a migration file that was applied. The daemon starts only on the versions that it knows, all of them.';
`)
	}
	b.WriteString("\n" + begin + strings.TrimRight(v.up, "\n") + end + "\n")
	if v.number < 5 { // version 5 gives River's table its column line
		fmt.Fprintf(&b, "INSERT INTO mailcrane.river_migration (version) VALUES (%d);\n", v.number)
	} else {
		fmt.Fprintf(&b, "INSERT INTO mailcrane.river_migration (line, version) VALUES ('main', %d);\n", v.number)
	}
	fmt.Fprintf(&b, "INSERT INTO mailcrane.migration (version) VALUES (%d);\n", file)
	return b.String()
}

func downFile(v riverVersion, file int) string {
	var b strings.Builder
	fmt.Fprintf(&b, notice, v.number, v.name)
	fmt.Fprintf(&b, "\nDELETE FROM mailcrane.migration WHERE version = %d;\n", file)
	fmt.Fprintf(&b, "DELETE FROM mailcrane.river_migration WHERE version = %d;\n", v.number)
	b.WriteString("\n" + begin + strings.TrimRight(v.down, "\n") + end)
	if v.number == 1 {
		b.WriteString("\nDROP TABLE mailcrane.migration;\nDROP SCHEMA mailcrane;\n")
	}
	return b.String()
}
