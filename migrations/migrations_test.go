package migrations_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-migrate/migrate/v4"
	_ "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	_ "github.com/golang-migrate/migrate/v4/source/file"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/migrations"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

type pgxTx = pgx.Tx

func emptyDatabase(t *testing.T) *pgxpool.Pool {
	t.Helper()
	return outboxtest.EmptyDatabase(t)
}

func url(pool *pgxpool.Pool) string { return pool.Config().ConnString() }

func exec1(t *testing.T, pool *pgxpool.Pool, statement string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// dump is the whole schema of a database as SQL, without golang-migrate's own
// table.
func dump(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	options := []string{"--schema-only", "--exclude-table=*schema_migrations"}
	out, err := outboxtest.Dump(t, url(pool), append(options, "--restrict-key=x")...)
	if err != nil { // an older pg_dump knows no --restrict-key, and writes none
		out, err = outboxtest.Dump(t, url(pool), options...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return inOneOrder(out)
}

// inOneOrder makes schemas comparable that differ in the order of their columns
// only: one that was dropped comes back as the last of its table.
func inOneOrder(dump string) string {
	objects := strings.Split(dump, "\n\n\n")
	for i, object := range objects {
		if strings.Contains(object, "\nCREATE TABLE ") {
			lines := strings.Split(object, "\n")
			for n := range lines {
				lines[n] = strings.TrimSuffix(lines[n], ",")
			}
			slices.Sort(lines)
			objects[i] = strings.Join(lines, "\n")
		}
	}
	slices.Sort(objects)
	return strings.Join(objects, "\n\n\n")
}

func TestUpDownUp_leavesTheSameSchema(t *testing.T) {
	t.Parallel()
	pool := emptyDatabase(t)
	exec1(t, pool, `CREATE TABLE public.message (id int); CREATE TABLE public.invitation (id int)`) // the application's own
	before := dump(t, pool)
	if err := migrations.Up(t.Context(), url(pool)); err != nil {
		t.Fatal(err)
	}
	up := dump(t, pool)
	if !strings.Contains(up, "CREATE TABLE mailcrane.message") || !strings.Contains(up, "CREATE TABLE mailcrane.river_job") {
		t.Fatal("the schema lacks its tables")
	}
	if err := migrations.Up(t.Context(), url(pool)); err != nil {
		t.Errorf("up on a schema that is there: %v", err)
	}
	if err := migrations.Down(t.Context(), url(pool), 0); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, dump(t, pool)); diff != "" {
		t.Errorf("down leaves something behind (-before +after):\n%s", diff)
	}
	if err := migrations.Up(t.Context(), url(pool)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(up, dump(t, pool)); diff != "" {
		t.Errorf("up, down, up differs from up:\n%s", diff)
	}
}

// Each file of ours can be taken back, to exactly the schema before it.
func TestDown_eachStepRestoresTheSchemaBeforeIt(t *testing.T) {
	t.Parallel()
	pool := emptyDatabase(t)
	m := stock(t, pool, "")
	const river = 8 // River takes some of its own steps back only roughly
	schemas := map[int]string{}
	for version := 1; version <= migrations.Latest(); version++ {
		if err := m.Steps(1); err != nil {
			t.Fatal(version, err)
		}
		requireVersion(t, pool, version)
		schemas[version] = dump(t, pool)
	}
	for version := migrations.Latest() - 1; version >= river; version-- {
		if err := m.Steps(-1); err != nil {
			t.Fatal(version, err)
		}
		requireVersion(t, pool, version)
		if diff := cmp.Diff(schemas[version], dump(t, pool)); diff != "" {
			t.Errorf("back to version %d (-before +after):\n%s", version, diff)
		}
	}
}

// stock is golang-migrate on the files of this folder.
func stock(t *testing.T, pool *pgxpool.Pool, parameter string) *migrate.Migrate {
	t.Helper()
	m, err := migrate.New("file://.", strings.Replace(url(pool), "postgres://", "pgx5://", 1)+parameter)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = m.Close() })
	return m
}

func requireVersion(t *testing.T, pool *pgxpool.Pool, want int) {
	t.Helper()
	if got, err := migrations.Version(t.Context(), pool); err != nil || got != want {
		t.Fatalf("version %d (%v), want %d", got, err, want)
	}
}

// What the stock command does, through the library that it is made of, with the
// files of the folder and both names of its table.
func TestFiles_workWithStockGolangMigrate(t *testing.T) {
	t.Parallel()
	for name, parameter := range map[string]string{"default table": "", "own table": "&x-migrations-table=mailcrane_schema_migrations"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := emptyDatabase(t)
			exec1(t, pool, `CREATE TABLE public.users (id int)`)
			m := stock(t, pool, parameter)
			for i, step := range []func() error{m.Up, m.Down, m.Up} {
				if err := step(); err != nil {
					t.Fatal(i, err)
				}
			}
			requireVersion(t, pool, migrations.Latest())
			// The embedded files go on where the stock command stopped.
			if err := m.Steps(-3); err != nil {
				t.Fatal(err)
			}
			if err := migrations.Up(t.Context(), url(pool)); err != nil {
				t.Fatal(err)
			}
			if err := migrations.Down(t.Context(), url(pool), 2); err != nil {
				t.Fatal(err)
			}
			if err := m.Up(); err != nil {
				t.Fatal("the stock command after ours: ", err)
			}
		})
	}
}

func TestUp_leavesTheApplicationsOwnMigrationsAlone(t *testing.T) {
	t.Parallel()
	pool := emptyDatabase(t)
	exec1(t, pool, `
		CREATE TABLE schema_migrations (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL);
		INSERT INTO schema_migrations VALUES (20240131, false)`)
	if err := migrations.Up(t.Context(), url(pool)); err != nil {
		t.Fatal(err)
	}
	var version int
	if err := pool.QueryRow(t.Context(), `SELECT version FROM schema_migrations`).Scan(&version); err != nil || version != 20240131 {
		t.Errorf("the application's version is now %d (%v)", version, err)
	}
}

func TestUp_takesUpAfterAFileThatFailed(t *testing.T) {
	t.Parallel()
	pool := emptyDatabase(t)
	if err := migrations.Up(t.Context(), url(pool)); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Down(t.Context(), url(pool), 2); err != nil {
		t.Fatal(err)
	}
	before := dump(t, pool)
	exec1(t, pool, `ALTER TABLE mailcrane.migration ADD CONSTRAINT in_the_way CHECK (version <> `+strconv.Itoa(migrations.Latest())+`)`)
	if err := migrations.Up(t.Context(), url(pool)); err == nil {
		t.Fatal("nothing was in the way")
	}
	requireVersion(t, pool, migrations.Latest()-1)
	exec1(t, pool, `ALTER TABLE mailcrane.migration DROP CONSTRAINT in_the_way`)
	if err := migrations.Up(t.Context(), url(pool)); err != nil {
		t.Fatal("the failure left something behind: ", err)
	}
	if err := migrations.Down(t.Context(), url(pool), 2); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, dump(t, pool)); diff != "" {
		t.Error(diff)
	}
}

func TestCheck_namesTheCommandToRun(t *testing.T) {
	t.Parallel()
	pool := emptyDatabase(t)
	check := func(found int, text string) {
		t.Helper()
		err := migrations.Check(t.Context(), pool)
		wrong, ok := errors.AsType[*migrations.VersionError](err)
		if !ok || wrong.Found != found || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want version %d and %q", err, found, text)
		}
	}
	check(0, "`mailcrane migrate up`")
	if err := migrations.Up(t.Context(), url(pool)); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Check(t.Context(), pool); err != nil {
		t.Error(err)
	}
	newer := migrations.Latest() + 2
	exec1(t, pool, `INSERT INTO mailcrane.migration (version) VALUES (`+strconv.Itoa(newer)+`)`)
	check(newer, "migrate down --steps 2")
	for name, step := range map[string]func() error{
		"up":   func() error { return migrations.Up(t.Context(), url(pool)) },
		"down": func() error { return migrations.Down(t.Context(), url(pool), 1) },
	} {
		if err := step(); err == nil || !strings.Contains(err.Error(), "newer mailcrane") {
			t.Errorf("%s on a newer schema: %v", name, err)
		}
	}
	exec1(t, pool, `DELETE FROM mailcrane.migration WHERE version >= `+strconv.Itoa(migrations.Latest()))
	check(migrations.Latest()-1, "`mailcrane migrate up`")
}

// What they were mailed before is found all the same.
func TestUp_knowsWhereInvitationsHaveMovedFrom(t *testing.T) {
	t.Parallel()
	pool := emptyDatabase(t)
	if err := migrations.Up(t.Context(), url(pool)); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Down(t.Context(), url(pool), migrations.Latest()-53); err != nil {
		t.Fatal(err)
	}
	exec1(t, pool, `SELECT mailcrane.invite('g', 'Ada@example.com')`)
	exec1(t, pool, `SELECT mailcrane.invite('g', 'bob@example.com')`)
	exec1(t, pool, `UPDATE mailcrane.invitation SET email = 'lovelace@example.com' WHERE email = 'Ada@example.com'`)
	if err := migrations.Up(t.Context(), url(pool)); err != nil {
		t.Fatal(err)
	}
	var found, moved int
	if err := pool.QueryRow(t.Context(), `
		SELECT (SELECT count(*) FROM mailcrane.messages_to('ada@example.com')),
		       (SELECT count(*) FROM mailcrane.invitation WHERE former_emails IS NOT NULL)`).Scan(&found, &moved); err != nil || found != 1 || moved != 1 {
		t.Errorf("%d mails are found, %d invitations have moved, %v", found, moved, err)
	}
}

func TestUp_refusesADatabaseThatIsNotUTF8(t *testing.T) {
	t.Parallel()
	pool := emptyDatabase(t)
	name := pool.Config().ConnConfig.Database + "_latin1"
	exec1(t, pool, `CREATE DATABASE `+name+` ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0`)
	t.Cleanup(func() {
		if _, err := pool.Exec(context.Background(), `DROP DATABASE `+name); err != nil {
			t.Error(err)
		}
	})
	latin1 := strings.Replace(url(pool), "/"+pool.Config().ConnConfig.Database, "/"+name, 1)
	if err := migrations.Up(t.Context(), latin1); err == nil || !strings.Contains(err.Error(), "UTF8") {
		t.Error(err)
	}
}

// Who takes back the eras of events loses none: what webhooks were not told of yet
// they are told then.
func TestDown_keepsTheEventsOfAnEra(t *testing.T) {
	t.Parallel()
	pool := emptyDatabase(t)
	if err := migrations.Up(t.Context(), url(pool)); err != nil {
		t.Fatal(err)
	}
	exec1(t, pool, `SELECT mailcrane.create_webhook('https://example.com/hook')`)
	told := func(want string) {
		t.Helper()
		var got string
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for range 1000 {
			exec1(t, pool, `SELECT mailcrane.send_events()`)
			err := pool.QueryRow(t.Context(), `
				SELECT coalesce(string_agg(m.data ->> 'group_id', ' ' ORDER BY m.data ->> 'group_id'), '')
				FROM mailcrane.message AS m WHERE m.channel = 'webhook'`).Scan(&got)
			if err != nil || got == want {
				break
			}
			<-ticker.C
		}
		if got != want {
			t.Errorf("told of %q, want %q", got, want)
		}
	}
	exec1(t, pool, `SELECT mailcrane.adopt()`)
	exec1(t, pool, `SELECT mailcrane.invite('1', 'ada@example.com')`)
	told("1")
	exec1(t, pool, `SELECT mailcrane.invite('2', 'ada@example.com')`)
	if err := migrations.Down(t.Context(), url(pool), migrations.Latest()-39); err != nil {
		t.Fatal(err)
	}
	exec1(t, pool, `SELECT mailcrane.invite('3', 'ada@example.com')`)
	told("1 2 3")
	if err := migrations.Up(t.Context(), url(pool)); err != nil {
		t.Fatal(err)
	}
	exec1(t, pool, `SELECT mailcrane.invite('4', 'grace@example.com')`)
	told("1 2 3 4")
}
