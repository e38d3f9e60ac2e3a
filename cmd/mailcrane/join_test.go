package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
)

// What the invited do: open the mail, follow the link, press the button.
func TestDev_anInvitationCanBeAcceptedInABrowser(t *testing.T) {
	t.Parallel()
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("MAILCRANE_CHECK") != "" {
			t.Fatal("no Chromium: apt-get install chromium")
		}
		t.Skip("no Chromium on this machine: apt-get install chromium")
	}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "<!doctype html><title>app</title><h1>Welcome %s</h1>", r.URL.Query().Get("invitation")) // the browser is gone
	}))
	t.Cleanup(app.Close)
	_, base, databaseURL := startDev(t, "--accepted-url", app.URL+"/welcome?invitation={id}")
	pool, err := pgxpool.New(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "42", GroupName: "Analytical Engine Club", Email: "ada@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	var inbox struct{ Messages []struct{ ID string } }
	waitFor(t, func() bool {
		get(t, base+"/inbox/messages?to=ada@example.com", &inbox)
		return len(inbox.Messages) == 1
	}, "the mail")
	var mail struct{ Text string }
	get(t, base+"/inbox/messages/"+inbox.Messages[0].ID, &mail)
	_, rest, found := strings.Cut(mail.Text, base+"/join/")
	if !found {
		t.Fatalf("no link to %s in\n%s", base, mail.Text)
	}
	var preview struct{ Subject, Text, HTML string }
	get(t, base+"/v1/messages/"+receipt.MessageID+"/preview", &preview)
	if !strings.Contains(preview.Subject, "Analytical Engine Club") || !strings.Contains(preview.Text, base+"/join/TOKEN") || !strings.Contains(preview.HTML, base+"/join/TOKEN") {
		t.Errorf("the preview is %+v", preview)
	}
	link := base + "/join/" + strings.Fields(rest)[0]

	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()))
	allocator, cancelAllocator := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancelAllocator)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	timer := time.AfterFunc(time.Minute, cancelAllocator)
	t.Cleanup(func() { timer.Stop() })
	title := func() string {
		text, err := chromedp.Run(ctx, chromedp.Text(chromedp.CSS("h1")))
		if err != nil {
			return err.Error() // between two pages
		}
		return text
	}
	if _, err := chromedp.Run(ctx, chromedp.Navigate(link)); err != nil {
		t.Fatal(err)
	}
	if got := title(); got != "You are invited" {
		t.Fatalf("the page says %q", got)
	}
	if record, err := outbox.GetInvitation(t.Context(), pool, receipt.InvitationID); err != nil || record.Status != "pending" {
		t.Fatalf("to look has changed it: %s, %v", record.Status, err)
	}
	if _, err := chromedp.Run(ctx, chromedp.Click(chromedp.CSS(`button[value="accept"]`))); err != nil {
		t.Fatal(err)
	}
	welcome := "Welcome " + receipt.InvitationID
	waitFor(t, func() bool { return title() == welcome }, "the page of the application")
	if record, err := outbox.GetInvitation(t.Context(), pool, receipt.InvitationID); err != nil || record.Status != "accepted" {
		t.Errorf("the invitation is %s, %v", record.Status, err)
	}

	// The link in the mail leads there as well, with one more click.
	if _, err := chromedp.Run(ctx, chromedp.Navigate(link)); err != nil {
		t.Fatal(err)
	}
	if got := title(); got != "You have accepted the invitation" {
		t.Errorf("the page says %q", got)
	}
	if _, err := chromedp.Run(ctx, chromedp.Click(chromedp.CSS("main a"))); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return title() == welcome }, "the page of the application, by way of the link")
}
