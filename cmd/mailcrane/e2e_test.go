package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// TestMain lets the test program be the program itself, so that a test can kill
// a real daemon.
func TestMain(m *testing.M) {
	if os.Getenv("MAILCRANE_TEST_AS_PROGRAM") != "" {
		if err := os.Unsetenv("MAILCRANE_TEST_AS_PROGRAM"); err != nil {
			panic(err)
		}
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// program is a mailcrane in a process of its own.
type program struct {
	*exec.Cmd
	log  *buffer
	done chan error
}

// buffer may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *buffer) tail() string {
	text := b.String()
	return text[max(0, len(text)-3000):]
}

// startProgram runs mailcrane with only these settings in its environment.
func startProgram(t *testing.T, environ []string, args ...string) *program {
	t.Helper()
	p := &program{Cmd: exec.Command(os.Args[0], args...), log: &buffer{}, done: make(chan error, 1)}
	p.Env = append([]string{"MAILCRANE_TEST_AS_PROGRAM=1", "PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()}, environ...)
	p.Stdout, p.Stderr = p.log, p.log
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.Wait() }()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		if t.Failed() {
			t.Logf("mailcrane %s said at last:\n%s", strings.Join(args, " "), p.log.tail())
		}
	})
	return p
}

// says waits until the program's output has the text.
func (p *program) says(t *testing.T, text string) {
	t.Helper()
	waitFor(t, func() bool { return strings.Contains(p.log.String(), text) }, "the program to say "+text)
}

// exit waits for the end and gives the exit code.
func (p *program) exit(t *testing.T) int {
	t.Helper()
	select {
	case err := <-p.done:
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			return failed.ExitCode()
		}
		return 0
	case <-time.After(30 * time.Second):
		t.Fatal("the program does not end")
		return -1
	}
}

func waitFor(t *testing.T, condition func() bool, what string) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-ticker.C
	}
}

// settingsFor are those of a daemon between a database and a mailbox.
func settingsFor(pool *pgxpool.Pool, box *mailbox.Server, more ...string) []string {
	return append([]string{
		"DATABASE_URL=" + pool.Config().ConnString(),
		"SMTP_URL=smtp://" + box.Addr() + "?tls=none",
		"MAILCRANE_FROM=Club <club@example.com>",
		"MAILCRANE_ACCEPT_URL=https://app.example/join?token={token}",
		"MAILCRANE_SECRET=0123456789abcdef0123456789abcdef",
		"MAILCRANE_LISTEN=127.0.0.1:0",
		"MAILCRANE_UNSAFE_DATABASE=true", // the tests' server has fsync off
		"MAILCRANE_RETRY_MIN=1s", "MAILCRANE_RETRY_MAX=1s",
		"LOG_FORMAT=json",
	}, more...)
}

// startDaemon runs `mailcrane serve` in this process.
func startDaemon(t *testing.T, environ []string, args ...string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	log := &buffer{}
	done := make(chan error, 1)
	go func() { done <- run(ctx, append([]string{"serve"}, args...), environ, io.Discard, log) }()
	waitFor(t, func() bool { return strings.Contains(log.String(), "mailcrane runs") || len(done) > 0 }, "the daemon to run")
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the daemon said at last:\n%s", log.tail())
		}
	})
}

func invite(t *testing.T, tx outbox.Tx, email string) string {
	t.Helper()
	receipt, err := outbox.Invite(context.Background(), tx, outbox.Invitation{GroupID: "42", GroupName: "Analytical Engine Club", Email: email})
	if err != nil {
		t.Fatal(err)
	}
	return receipt.MessageID
}

func waitForStatus(t *testing.T, pool *pgxpool.Pool, id string, want outbox.Status) outbox.MessageRecord {
	t.Helper()
	var m outbox.MessageRecord
	waitFor(t, func() bool {
		var err error
		if m, err = outbox.GetMessage(context.Background(), pool, id); err != nil {
			t.Fatal(err)
		}
		return m.Status == want
	}, "message to be "+string(want))
	return m
}

func outcomes(m outbox.MessageRecord) string {
	var list []string
	for _, a := range m.Attempts {
		list = append(list, string(a.Outcome))
	}
	return strings.Join(list, " ")
}

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

// Everything a new user does: start, paste the command, look into the inbox,
// follow the location; then by SQL.
func TestDev_doesWhatItsWelcomePromises(t *testing.T) {
	t.Parallel()
	dev := startProgram(t, nil, "dev", "--ephemeral", "--listen", "127.0.0.1:0")
	dev.says(t, "curl --json")
	var base, databaseURL string
	for line := range strings.Lines(dev.log.String()) {
		fields := strings.Fields(line)
		if len(fields) == 2 && fields[0] == "Inbox" {
			base = strings.TrimSuffix(fields[1], "/inbox")
		}
		if len(fields) == 2 && fields[0] == "DATABASE_URL" {
			databaseURL = fields[1]
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/v1/groups/42/invitations",
		strings.NewReader(`{"email":"ada@example.com","group_name":"Analytical Engine Club","inviter_name":"Charles"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	location := response.Header.Get("Location")
	if response.StatusCode != http.StatusAccepted || !strings.HasPrefix(location, "/v1/invitations/") {
		t.Fatalf("%s, location %q", response.Status, location)
	}
	var inbox struct{ Messages []struct{ Subject string } }
	waitFor(t, func() bool {
		get(t, base+"/inbox/messages?to=ada@example.com", &inbox)
		return len(inbox.Messages) == 1
	}, "the mail")
	var invitation outbox.InvitationRecord
	waitFor(t, func() bool {
		get(t, base+location, &invitation)
		return invitation.Messages[0].Status == outbox.StatusSent
	}, "the invitation's message to be sent")
	if a := invitation.Messages[0].Attempts[0]; a.Outcome != outbox.Accepted || a.Code != 250 || a.Relay == "" || a.Reply == "" {
		t.Errorf("attempt %+v", a)
	}

	out := &bytes.Buffer{}
	if err := run(t.Context(), []string{"invite", "--database-url", databaseURL, "--group-id", "42", "--email", "grace@example.com"}, nil, out, io.Discard); err != nil || !strings.HasPrefix(out.String(), "created") {
		t.Errorf("invite: %s, %v", out, err)
	}
	waitFor(t, func() bool {
		get(t, base+"/inbox/messages?to=grace@example.com", &inbox)
		return len(inbox.Messages) == 1
	}, "the second mail")
	if err := askReady(t.Context(), strings.TrimPrefix(base, "http://")); err != nil {
		t.Error(err)
	}
	if err := dev.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := dev.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func get(t *testing.T, url string, into any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
}

func TestMigrate_goesUpAndDownAndSaysWhereItIs(t *testing.T) {
	t.Parallel()
	environ := []string{"DATABASE_URL=" + outboxtest.EmptyDatabase(t).Config().ConnString()}
	mailcrane := func(args ...string) (string, error) {
		out := &bytes.Buffer{}
		err := run(t.Context(), args, environ, out, io.Discard)
		return out.String(), err
	}
	if _, err := mailcrane("migrate", "status"); err == nil || !strings.Contains(err.Error(), "migrate up") {
		t.Errorf("status of an empty database: %v", err)
	}
	for _, step := range [][]string{{"migrate", "up"}, {"migrate", "status"}, {"migrate", "down", "--steps", "1"}, {"migrate", "up"}, {"migrate", "down", "--all"}, {"migrate", "up"}} {
		if out, err := mailcrane(step...); err != nil {
			t.Errorf("%v: %s, %v", step, out, err)
		}
	}
	for _, step := range [][]string{{"migrate", "down"}, {"migrate", "down", "--all", "--steps", "2"}} {
		if _, err := mailcrane(step...); err == nil {
			t.Errorf("%v did not ask how much", step)
		}
	}
}

func TestCommands_areAllThere(t *testing.T) {
	t.Parallel()
	out := &bytes.Buffer{}
	if err := run(t.Context(), []string{"help"}, nil, out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"serve", "dev", "migrate", "invite", "hold", "release", "mark-sent", "adopt", "audit", "config", "version", "healthcheck"} {
		if !slices.ContainsFunc(strings.Split(out.String(), "\n"), func(line string) bool { return strings.HasPrefix(strings.TrimSpace(line), name+" ") }) {
			t.Errorf("no command %s in:\n%s", name, out)
		}
	}
	out.Reset()
	if err := run(t.Context(), []string{"version"}, nil, out, io.Discard); err != nil || !strings.Contains(out.String(), "schema") {
		t.Errorf("%s, %v", out, err)
	}
	out.Reset()
	if err := run(t.Context(), []string{"config", "--workers", "7"}, nil, out, io.Discard); err != nil || !strings.Contains(out.String(), "MAILCRANE_WORKERS=7  # flag") {
		t.Errorf("%s, %v", out, err)
	}
}
