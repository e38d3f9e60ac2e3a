package outbox_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// A connection keeps the plans that it made when the tables were small; and
// nobody may have counted a table's rows for a while. Neither may cost a look at
// every row.
func TestWrites_goByIndexInTablesThatHaveGrown(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for _, table := range []string{"invitation", "message", "suppression", "river_job"} {
		exec(t, pool, `ALTER TABLE mailcrane.`+table+` SET (autovacuum_enabled = false)`)
	}
	fill := func(from, to int) {
		t.Helper()
		exec(t, pool, fmt.Sprintf(`INSERT INTO mailcrane.invitation (group_id, email, expires_at, idempotency_key)
			SELECT 'big', 'u' || i || '@example.com', now() + interval '1 day', 'big' || i FROM generate_series(%d, %d) AS i`, from, to))
		exec(t, pool, fmt.Sprintf(`INSERT INTO mailcrane.message (invitation_id, recipient, template, idempotency_key, status, finished_at)
			SELECT id, email, 'invitation', 'big' || i, 'sent', now() FROM generate_series(%d, %d) AS i
			JOIN mailcrane.invitation ON idempotency_key = 'big' || i`, from, to))
		exec(t, pool, fmt.Sprintf(`INSERT INTO mailcrane.message (recipient, template, status, finished_at)
			SELECT 'm' || i || '@example.com', 'verify', 'sent', now() FROM generate_series(%d, %d) AS i`, from, to))
		exec(t, pool, fmt.Sprintf(`INSERT INTO mailcrane.suppression (address, reason)
			SELECT 's' || i || '@example.com', 'bounced' FROM generate_series(%d, %d) AS i`, from, to))
	}
	fill(1, 20)
	exec(t, pool, `ANALYZE mailcrane.invitation, mailcrane.message, mailcrane.suppression, mailcrane.river_job`)

	old := connection(t, pool.Config().ConnString())
	for n := range 8 { // more often than PostgreSQL tries other plans
		requireFewReads(t, old, fmt.Sprint("small", n), false)
	}
	fill(21, 200000)
	requireFewReads(t, old, "grown", true)
	requireFewReads(t, connection(t, pool.Config().ConnString()), "new", true)
}

// Some addresses get a mail a minute.
func TestReportBounces_readsNotAllThatAnAddressWasMailed(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	exec(t, pool, `INSERT INTO mailcrane.message (tenant, recipient, template, status, finished_at)
		SELECT 't' || i % 2, 'ops@example.com', 'verify', 'sent', now() FROM generate_series(1, 5000) AS i`)
	tx := outboxtest.Begin(t, pool)
	scansBefore, rowsBefore := reads(t, tx)
	if _, err := tx.Exec(t.Context(), `SELECT mailcrane.report_bounces('[{"kind": "hard", "address": "ops@example.com"}]')`); err != nil {
		t.Fatal(err)
	}
	if scans, rows := reads(t, tx); scans > scansBefore || rows-rowsBefore > 1100 {
		t.Errorf("%d scans of all, %d rows by index", scans-scansBefore, rows-rowsBefore)
	}
	var suppressed string
	if err := tx.QueryRow(t.Context(), `SELECT string_agg(tenant, ' ' ORDER BY tenant) FROM mailcrane.suppression`).Scan(&suppressed); err != nil || suppressed != "t0 t1" {
		t.Errorf("suppressed for %q, %v", suppressed, err)
	}
}

func connection(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) }) //nolint:errcheck // the test is over
	return conn
}

// requireFewReads makes calls of every kind and counts what they read.
func requireFewReads(t *testing.T, conn *pgx.Conn, group string, strict bool) {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) // or committed
	many := func(group, email string) string {
		return fmt.Sprintf(`SELECT mailcrane.invite_many((SELECT jsonb_agg(jsonb_build_object('group_id', '%s', 'email', %s)) FROM generate_series(1, 3) AS i))`, group, email)
	}
	keyed := `SELECT mailcrane.invite_many('[{"group_id": "big", "email": "u7@example.com", "idempotency_key": "big7"}]')`
	verify := `SELECT mailcrane.enqueue('one@example.com', 'verify', idempotency_key => '` + group + `')`
	for _, call := range []string{
		`SELECT mailcrane.invite('` + group + `', 'one@example.com')`,
		`SELECT mailcrane.invite('` + group + `', 'one@example.com')`,
		`SELECT mailcrane.invite('` + group + `', 's1@example.com')`,
		`SELECT mailcrane.invite('big', 'u8@example.com')`,
		`UPDATE mailcrane.invitation SET expires_at = now() WHERE tenant = 'default' AND group_id = 'big' AND lower(email) = 'u8@example.com' AND status = 'pending'`,
		`SELECT mailcrane.invite('big', 'u8@example.com')`,
		`SELECT mailcrane.enqueue('one@example.com', 'verify')`,
		verify, verify,
		many(group, `'n' || i || '@example.com'`), many(group, `'s' || i || '@example.com'`), many("big", `'u' || i || '@example.com'`),
		keyed,
		`SELECT mailcrane.report_bounces('[{"kind": "soft", "address": "u9@example.com"}, {"kind": "hard", "address": "m9@example.com"}]')`,
	} {
		scansBefore, rowsBefore := reads(t, tx)
		if _, err := tx.Exec(t.Context(), call, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", call, err)
		}
		scans, rows := reads(t, tx)
		if scans -= scansBefore; strict && (scans > 0 || rows-rowsBefore > 100) {
			t.Fatalf("%s: %d scans of all, %d rows by index", call, scans, rows-rowsBefore)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// reads is what a connection has read so far, since it last told the server.
func reads(t *testing.T, tx pgx.Tx) (scans, rows int) {
	t.Helper()
	if err := tx.QueryRow(t.Context(), `
		SELECT sum(seq_scan), sum(idx_tup_fetch) FROM pg_stat_xact_user_tables WHERE schemaname = 'mailcrane'`,
		pgx.QueryExecModeSimpleProtocol).Scan(&scans, &rows); err != nil {
		t.Fatal(err)
	}
	return scans, rows
}

// At the price that is put on looking at every row, PostgreSQL would compile what has
// to do it all the same.
func TestFunctions_thatGoByIndexAreNotCompiled(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	functions, err := pool.Query(t.Context(), `
		SELECT p.oid::regprocedure::text, p.proconfig @> '{jit=off}'
		FROM pg_proc AS p
		WHERE p.pronamespace = 'mailcrane'::regnamespace AND p.proconfig @> '{enable_seqscan=off}'`)
	if err != nil {
		t.Fatal(err)
	}
	var name string
	var plain bool
	tag, err := pgx.ForEachRow(functions, []any{&name, &plain}, func() error {
		if !plain {
			t.Errorf("%s: give it SET jit = 'off'", name)
		}
		return nil
	})
	if err != nil || tag.RowsAffected() == 0 {
		t.Errorf("%d functions, %v", tag.RowsAffected(), err)
	}
}

// Who invites waits for plans to be made, whenever PostgreSQL has looked at a table
// that every mail changes.
func TestTables_thatEveryMailChangesAreAnalyzedRarely(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	exec(t, pool, `INSERT INTO mailcrane.quota (kind, tenant, at_most) VALUES ('inviter', '*', 1000)`)
	startRelay(t, pool, &hop{})
	const mails = 30
	for i := range mails {
		receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", InviterID: "7", Email: fmt.Sprintf("u%d@example.com", i)})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := outbox.ClaimRequest(t.Context(), pool, "", receipt.MessageID, []byte("hash")); err != nil {
			t.Fatal(err)
		}
	}
	eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.message WHERE status <> 'sent'`)
	pool.Reset() // sessions tell what they did when they end, if not before
	const changed = `
		FROM pg_stat_user_tables AS s
		JOIN pg_class AS c ON c.oid = s.relid
		WHERE s.schemaname = 'mailcrane' AND s.n_tup_ins + s.n_tup_upd >= $1`
	eventuallyZero(t, pool, `SELECT 8 - least(8, count(*))`+changed, mails)
	for _, table := range strings.Fields(value[string](t, pool, `
		SELECT coalesce(string_agg(s.relname, ' '), '')`+changed+`
		  AND (c.reloptions @> '{autovacuum_analyze_threshold=10000,autovacuum_vacuum_insert_threshold=10000,autovacuum_vacuum_threshold=5000}') IS NOT TRUE`, mails)) {
		t.Errorf("%s: give it the thresholds of the others", table)
	}
}
