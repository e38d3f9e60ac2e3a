package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/localpg/pgproxy"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

func TestServe_sendsCommittedMailOverSMTPAndNothingElse(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	box := mailbox.Start(t, mailbox.Config{})
	startDaemon(t, settingsFor(pool, box))
	ctx := t.Context()

	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	invite(t, tx, "kept@example.com")
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	invite(t, savepoint, "savepoint@example.com")
	if err := errors.Join(savepoint.Rollback(ctx), tx.Commit(ctx)); err != nil {
		t.Fatal(err)
	}
	gone, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	invite(t, gone, "rolledback@example.com")
	if err := gone.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	last := waitForStatus(t, pool, invite(t, pool, "last@example.com"), outbox.StatusSent)

	mails, err := box.Wait(ctx, 2)
	if err != nil || len(mails) != 2 {
		t.Fatalf("%d mails, %v", len(mails), err)
	}
	for _, m := range mails {
		if to := m.To[0]; to != "kept@example.com" && to != "last@example.com" {
			t.Errorf("a mail for %s", to)
		}
		if !strings.Contains(m.Text, "https://app.example/join?token=") || !strings.Contains(m.HTML, "https://app.example/join?token=") ||
			!strings.Contains(m.Subject, "Analytical Engine Club") || m.Header.Get("Auto-Submitted") != "auto-generated" {
			t.Errorf("mail: %s", m.Raw)
		}
	}
	if a := last.Attempts[0]; a.Relay != box.Addr() || a.Code != 250 || a.Reply == "" {
		t.Errorf("attempt %+v", a)
	}
}

func TestServe_recordsWhatTheRelayDoes(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	box := mailbox.Start(t, mailbox.Config{Faults: []mailbox.Fault{
		{At: mailbox.Rcpt, To: "nobody@", Reply: "550 5.1.1 no such user"},
		{At: mailbox.Rcpt, To: "busy@", Reply: "451 4.7.1 later", Times: 1},
		{At: mailbox.Dot, To: "lost@", Keep: true, Close: true, Times: 1},
		{At: mailbox.Dot, To: "spam@", Reply: "554 5.6.0 spam"},
		{At: mailbox.Quit, Close: true},
	}})
	startDaemon(t, settingsFor(pool, box, "MAILCRANE_SMTP_MAX_MESSAGES=1")) // so that each mail is followed by QUIT
	for _, c := range []struct {
		to       string
		status   outbox.Status
		outcomes string
		copies   int
	}{
		{"nobody@example.com", outbox.StatusFailed, "rejected", 0},
		{"busy@example.com", outbox.StatusSent, "deferred accepted", 1},
		{"lost@example.com", outbox.StatusSent, "unknown accepted", 2},
		{"spam@example.com", outbox.StatusFailed, "rejected", 0},
		{"fine@example.com", outbox.StatusSent, "accepted", 1}, // QUIT fails after its 250
	} {
		m := waitForStatus(t, pool, invite(t, pool, c.to), c.status)
		copies := box.Mails(c.to)
		if outcomes(m) != c.outcomes || len(copies) != c.copies {
			t.Errorf("%s: outcomes %q and %d copies, want %q and %d", c.to, outcomes(m), len(copies), c.outcomes, c.copies)
		}
		for _, mail := range copies {
			if mail.MessageID != m.HeaderMessageID || !bytes.Equal(mail.Raw, copies[0].Raw) {
				t.Errorf("%s: the copies differ", c.to)
			}
		}
	}
}

// RSET, which begins the next mail on a connection, comes after the 250 of the
// one before: that one was sent, whatever the relay says to it.
func TestServe_R6_refusedRSETChangesNothing(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	box := mailbox.Start(t, mailbox.Config{Faults: []mailbox.Fault{
		{At: mailbox.Rcpt, To: "nobody@", Reply: "550 5.1.1 no such user"},
		{At: mailbox.Rset, Reply: "500 what"},
	}})
	startDaemon(t, settingsFor(pool, box))
	for _, to := range []string{"a@example.com", "nobody@example.com", "b@example.com", "c@example.com"} {
		want := outbox.StatusSent
		if to == "nobody@example.com" {
			want = outbox.StatusFailed
		}
		if m := waitForStatus(t, pool, invite(t, pool, to), want); len(m.Attempts) != 1 {
			t.Errorf("%s: %s", to, outcomes(m))
		}
	}
	if n := len(box.Mails("")); n != 3 {
		t.Errorf("%d mails", n)
	}
}

func TestServe_renderingFailureNeverTouchesTheRelay(t *testing.T) {
	t.Parallel()
	templates := t.TempDir()
	for name, text := range map[string]string{
		"receipt.subject": "Receipt", "receipt.txt": "You paid {{.data.amount}}.", "receipt.html": "<p>{{.data.amount}}</p>",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Join(templates, "en"), 0o755), os.WriteFile(filepath.Join(templates, "en", name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	pool := outboxtest.Database(t)
	box := mailbox.Start(t, mailbox.Config{})
	startDaemon(t, settingsFor(pool, box, "MAILCRANE_TEMPLATES="+templates))
	enqueue := func(data map[string]any) string {
		receipt, err := outbox.Enqueue(t.Context(), pool, outbox.Draft{Recipient: "ada@example.com", Template: "receipt", Data: data})
		if err != nil {
			t.Fatal(err)
		}
		return receipt.MessageID
	}
	m := waitForStatus(t, pool, enqueue(map[string]any{"amuont": 3}), outbox.StatusFailed)
	if !strings.Contains(m.Reason, "amount") || !strings.Contains(m.Reason, "receipt") || m.Attempts[0].Relay != "" {
		t.Errorf("got %+v", m)
	}
	waitForStatus(t, pool, enqueue(map[string]any{"amount": "3 €"}), outbox.StatusSent)
	if mails := box.Mails(""); len(mails) != 1 || !strings.Contains(mails[0].Text, "You paid 3 €.") || box.Connections() != 1 {
		t.Errorf("%d mails on %d connections", len(mails), box.Connections())
	}
}

func TestServe_twoDaemonsSendEachOf2000MessagesOnce(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	box := mailbox.Start(t, mailbox.Config{Capacity: 5000})
	startDaemon(t, settingsFor(pool, box), "--no-api")
	startDaemon(t, settingsFor(pool, box), "--no-api")
	const messages = 2000
	for batch := range 2 {
		invitations := make([]outbox.Invitation, messages/2)
		for i := range invitations {
			invitations[i] = outbox.Invitation{GroupID: "g", Email: fmt.Sprintf("u%d-%d@example.com", batch, i)}
		}
		if _, err := outbox.InviteMany(t.Context(), pool, invitations); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, func() bool {
		var left int
		if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM mailcrane.message WHERE status <> 'sent'`).Scan(&left); err != nil {
			t.Fatal(err)
		}
		return left == 0
	}, "all messages to be sent")
	seen := map[string]int{}
	for _, m := range box.Mails("") {
		seen[m.MessageID]++
	}
	if len(seen) != messages || len(box.Mails("")) != messages {
		t.Errorf("%d mails, %d different, want %d", len(box.Mails("")), len(seen), messages)
	}
}

// A real kill -9 at the worst moment: the mail is taken, and the daemon dies
// before it can write that down. Its successor cannot know, repeats it once, and
// says so.
func TestServe_killedBetweenDotAndCloseIsTakenOverInSeconds(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	inDot := make(chan struct{})
	box := mailbox.Start(t, mailbox.Config{Faults: []mailbox.Fault{{At: mailbox.Dot, To: "ada@", Keep: true, Hang: true, Times: 1, Do: func() { close(inDot) }}}})
	first := startProgram(t, settingsFor(pool, box), "serve")
	first.says(t, "mailcrane runs")
	id := invite(t, pool, "ada@example.com")
	<-inDot
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.exit(t)
	killed := time.Now()
	second := startProgram(t, settingsFor(pool, box), "serve")
	second.says(t, "mailcrane runs")
	m := waitForStatus(t, pool, id, outbox.StatusSent)
	if outcomes(m) != "unknown accepted" || len(box.Mails("ada@example.com")) != 2 {
		t.Errorf("outcomes %q, %d copies", outcomes(m), len(box.Mails("")))
	}
	t.Logf("taken over %s after the kill", time.Since(killed).Round(100*time.Millisecond))
}

func TestServe_SIGTERMWaitsForTheAnswerToTheDotAndExitsWith0(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	inDot, answer := make(chan struct{}), make(chan struct{})
	box := mailbox.Start(t, mailbox.Config{Faults: []mailbox.Fault{{At: mailbox.Dot, Reply: "250 2.0.0 at last", Keep: true, Do: func() { close(inDot); <-answer }}}})
	daemon := startProgram(t, settingsFor(pool, box), "serve")
	daemon.says(t, "mailcrane runs")
	id := invite(t, pool, "ada@example.com")
	<-inDot
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	daemon.says(t, "stopping")
	close(answer)
	if code := daemon.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if m := waitForStatus(t, pool, id, outbox.StatusSent); outcomes(m) != "accepted" {
		t.Errorf("outcomes %q", outcomes(m))
	}
}

func TestServe_refusesAnotherSchemaAndSaysWhatToRun(t *testing.T) {
	t.Parallel()
	box := mailbox.Start(t, mailbox.Config{})
	err := run(t.Context(), []string{"serve"}, settingsFor(outboxtest.EmptyDatabase(t), box), io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "mailcrane migrate up") {
		t.Error(err)
	}
}

func TestServe_wantsItsSettings(t *testing.T) {
	t.Parallel()
	err := run(t.Context(), []string{"serve"}, []string{"MAILCRANE_LISTEN=0.0.0.0:80"}, io.Discard, io.Discard)
	for _, want := range []string{"DATABASE_URL", "SMTP_URL", "MAILCRANE_FROM", "MAILCRANE_API_TOKEN"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("it does not say %s: %v", want, err)
		}
	}
	err = run(t.Context(), []string{"serve", "--no-relay"}, nil, io.Discard, io.Discard)
	if err == nil || strings.Contains(err.Error(), "SMTP_URL") {
		t.Error(err)
	}
}

// A request that another one holds up does not wait for a connection to be opened.
func TestServe_keepsTheConnectionsOfTheAPIOpen(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	startDaemon(t, settingsFor(pool, mailbox.Start(t, mailbox.Config{})), "--no-relay")
	waitFor(t, func() bool {
		var open int
		err := pool.QueryRow(t.Context(), `
			SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'mailcrane'`).Scan(&open)
		if err != nil {
			t.Fatal(err)
		}
		return open >= apiConnections
	}, "all connections to be open")
}

// A pooler would pass what is set for the session on to others.
func TestConnect_boundsTheWaitForLocksOfTheAPIAlone(t *testing.T) {
	t.Parallel()
	url := outboxtest.DatabaseURL(t)
	for _, c := range []struct {
		of            string
		pollOnly, api bool
		want          string
	}{
		{"the relay", false, false, "0 on"},
		{"the API", false, true, "8s on"},
		{"the API behind a pooler", true, true, "0 on"},
	} {
		d := daemon{Config: Config{DatabaseURL: url, PollOnly: c.pollOnly}}
		var more []func(*pgxpool.Config)
		if c.api {
			more = append(more, d.keepForAPI)
		}
		pool, err := d.connect(t.Context(), apiConnections, more...)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		err = pool.QueryRow(t.Context(), `SELECT current_setting('lock_timeout') || ' ' || current_setting('synchronous_commit')`).Scan(&got)
		if err != nil || got != c.want {
			t.Errorf("%s: %s instead of %s, %v", c.of, got, c.want, err)
		}
		pool.Close()
	}
}

func TestConnect_leavesNothingOfTheRehearsal(t *testing.T) {
	t.Parallel()
	d := daemon{Config: Config{DatabaseURL: outboxtest.DatabaseURL(t)}}
	pool, err := d.connect(t.Context(), 1, d.keepForAPI)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var prepared, written int
	err = pool.QueryRow(t.Context(), `
		SELECT (SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%mailcrane.' || 'invite(%'),
			(SELECT count(*) FROM mailcrane.invitation) + (SELECT count(*) FROM mailcrane.message) + (SELECT count(*) FROM mailcrane.event)`).
		Scan(&prepared, &written)
	if err != nil || prepared != 1 || written != 0 {
		t.Errorf("%d statements of an invitation are prepared, %d rows written, %v", prepared, written, err)
	}
}

// Otherwise what only reads would wait for whoever keeps others from writing.
func TestConnect_doesNotWaitForTheRehearsal(t *testing.T) {
	t.Parallel()
	locked := outboxtest.Database(t)
	tx := outboxtest.Begin(t, locked)
	if _, err := tx.Exec(t.Context(), `LOCK mailcrane.invitation IN EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), apiLockTimeout/2)
	defer cancel()
	d := daemon{Config: Config{DatabaseURL: locked.Config().ConnString()}}
	pool, err := d.connect(ctx, 1, d.keepForAPI)
	if err != nil {
		t.Fatal(err)
	}
	pool.Close()
}

// The server says nothing any more when a connection rehearses. The next one does
// without, and the silent one is given up.
func TestConnect_silentServerKeepsNobodysTurn(t *testing.T) {
	t.Parallel()
	proxy := outboxtest.Proxy(t, outboxtest.DatabaseURL(t))
	d := daemon{Config: Config{DatabaseURL: proxy.URL()}}
	pool, err := d.connect(t.Context(), 3, d.keepForAPI, func(c *pgxpool.Config) { c.MinConns = 0 })
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	first, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Release()

	silent := make(chan struct{}, 1)
	proxy.Inject(pgproxy.Fault{Statement: "mailcrane.invite(", At: pgproxy.Reply, Hang: time.Hour, Do: func() { silent <- struct{}{} }})
	ctx, cancel := context.WithTimeout(t.Context(), 3*apiLockTimeout)
	defer cancel()
	second := make(chan error, 1)
	go func() { second <- pool.Ping(ctx) }()
	<-silent
	if err := pool.Ping(ctx); err != nil {
		t.Error(err)
	}
	if err := <-second; err == nil || ctx.Err() != nil {
		t.Errorf("the silent connection ended with %v, and the test's time with %v", err, ctx.Err())
	}
}
