package outbox

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The order of the rules matters: a message that is finished stays so, an open
// attempt comes before any other reason, and only then may anything be settled.
func TestDecide_appliesTheRulesInOrder(t *testing.T) {
	t.Parallel()
	all := loaded{Status: StatusQueued, OpenAttempt: 1, SuppressedFor: "bounced", Expired: true, TooOld: true, Unknown: 3}
	for _, c := range []struct {
		name       string
		change     func(*loaded)
		invitation string
		want       step
	}{
		{"finished", func(l *loaded) { l.Status = StatusSent }, "revoked", step{drop: true}},
		{"held", func(l *loaded) { l.Status = StatusHeld }, "pending", step{drop: true}},
		{"open", func(*loaded) {}, "revoked", step{wait: time.Second}},
		{"suppressed", func(l *loaded) { l.OpenAttempt = 0 }, "revoked", step{status: StatusSuppressed}},
		{"revoked", func(l *loaded) { l.OpenAttempt, l.SuppressedFor = 0, "" }, "revoked", step{status: StatusCancelled}},
		{"expired", func(l *loaded) { l.OpenAttempt, l.SuppressedFor = 0, "" }, "pending", step{status: StatusFailed}},
		{"invitation expired", func(l *loaded) { *l = loaded{Status: StatusQueued} }, "expired", step{status: StatusFailed}},
		{"its webhook is disabled", func(l *loaded) { *l = loaded{Status: StatusQueued, DisabledBecause: "x", TooOld: true, Attempts: 3} }, "", step{status: StatusHeld, heldBy: "webhook"}},
		{"too old", func(l *loaded) { *l = loaded{Status: StatusQueued, TooOld: true, Attempts: 3} }, "", step{status: StatusFailed}},
		{"too old, and never tried", func(l *loaded) { *l = loaded{Status: StatusQueued, TooOld: true} }, "", step{status: StatusHeld, heldBy: "relay"}},
		{"unknown too often", func(l *loaded) {
			*l = loaded{Status: StatusQueued, Unknown: 3, AllowedUnknown: 2, TooOld: true, Attempts: 3, HoldReason: "x"}
		}, "", step{status: StatusHeld, heldBy: "unknown"}},
		{"unknown, one repeat left", func(l *loaded) { *l = loaded{Status: StatusQueued, Unknown: 2, AllowedUnknown: 2} }, "pending", step{}},
		{"a hold", func(l *loaded) { *l = loaded{Status: StatusQueued, HoldReason: "x"} }, "pending", step{status: StatusHeld, heldBy: "hold"}},
		{"nothing in the way", func(l *loaded) { *l = loaded{Status: StatusQueued} }, "", step{}},
	} {
		l := all
		c.change(&l)
		l.InvitationStatus = c.invitation
		got := l.decide(0)
		if (got.reason != "") != (c.want.status != "") {
			t.Errorf("%s: reason %q with status %q", c.name, got.reason, got.status)
		}
		got.reason = ""
		if got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestDecide_holdsWhatDaemonsDieOf(t *testing.T) {
	t.Parallel()
	l := loaded{Status: StatusQueued}
	if got := l.decide(maxRescues - 1); !got.goesOn() {
		t.Errorf("too early: %+v", got)
	}
	if got := l.decide(maxRescues); got.status != StatusHeld || got.heldBy != "poison" {
		t.Errorf("got %+v", got)
	}
}

func TestSkew_isWhatTheRoundTripDoesNotExplain(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	for now, want := range map[time.Duration]time.Duration{-time.Hour: -time.Hour, 0: 0, time.Second: 0, 3 * time.Second: 2 * time.Second} {
		if got := skew(begun, begun.Add(time.Second), begun.Add(now).Round(0)); got != want {
			t.Errorf("database at %s: skew %s, want %s", now, got, want)
		}
	}
}

func TestBackoff_doublesFromMinToMaxWithJitter(t *testing.T) {
	t.Parallel()
	config := RelayConfig{}.withDefaults()
	want := 30 * time.Second
	for attempts := 1; attempts <= 70; attempts++ {
		seen := map[time.Duration]bool{}
		for range 20 {
			got := config.backoff(attempts)
			if got < want*4/5 || got > want*6/5 {
				t.Errorf("after %d attempts %s, want about %s", attempts, got, want)
			}
			seen[got] = true
		}
		if len(seen) < 2 {
			t.Errorf("after %d attempts no jitter", attempts)
		}
		want = min(2*want, 2*time.Hour)
	}
}

func TestAcceptLink_changesWithSecretInvitationAndGeneration(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, secret := range []string{"one", "two"} {
		for _, id := range []string{"01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21", "01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b22"} {
			for generation := range 2 {
				link, _ := AcceptLink("https://x/?t={token}&again={token}", []byte(secret), id, generation)
				again, _ := AcceptLink("https://x/?t={token}&again={token}", []byte(secret), id, generation)
				if link != again || strings.Contains(link, "{token}") || seen[link] {
					t.Errorf("link %q", link)
				}
				seen[link] = true
			}
		}
	}
}

// An application that imports this package must not get a mail library, a
// template engine or a web server with it.
func TestImports_areRiverAndPgxOnly(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(string(out)) {
		for _, banned := range []string{"go-mail", "html/template", "net/smtp", "mailcrane/sender", "mailcrane/api", "mailcrane/migrations", "golang-migrate", "huma", "cobra"} {
			if strings.Contains(path, banned) {
				t.Errorf("it imports %s", path)
			}
		}
	}
}
