package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// startDev runs `mailcrane dev` and gives the addresses that its welcome names.
func startDev(t *testing.T, flags ...string) (dev *program, base, databaseURL string) {
	t.Helper()
	dev = startProgram(t, nil, append([]string{"dev", "--ephemeral", "--listen", "127.0.0.1:0"}, flags...)...)
	dev.says(t, "curl --json")
	for line := range strings.Lines(dev.log.String()) {
		fields := strings.Fields(line)
		if len(fields) == 2 && fields[0] == "Inbox" {
			base = strings.TrimSuffix(fields[1], "/inbox")
		}
		if len(fields) == 2 && fields[0] == "DATABASE_URL" {
			databaseURL = fields[1]
		}
	}
	return dev, base, databaseURL
}

// Everything a new user does: start, paste the command, look into the inbox,
// follow the location; then by SQL.
func TestDev_doesWhatItsWelcomePromises(t *testing.T) {
	t.Parallel()
	dev, base, databaseURL := startDev(t)
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
	for _, name := range []string{"serve", "dev", "migrate", "invite", "hold", "release", "mark-sent", "adopt", "erase", "keys", "audit", "openapi", "config", "version", "healthcheck"} {
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
