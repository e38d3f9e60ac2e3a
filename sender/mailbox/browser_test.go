package mailbox_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// browser opens a real one, or skips the test where there is none.
func browser(t *testing.T) context.Context {
	t.Helper()
	found := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			found = path
			break
		}
	}
	if found == "" {
		if os.Getenv("MAILCRANE_CHECK") != "" {
			t.Fatal("no Chromium: apt-get install chromium")
		}
		t.Skip("no Chromium on this machine: apt-get install chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(found), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-sync", true), chromedp.WindowSize(900, 1000))
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	timer := time.AfterFunc(time.Minute, cancelAllocator)
	t.Cleanup(func() {
		timer.Stop()
		cancel()
		cancelAllocator()
	})
	return ctx
}

// do runs one step in the browser.
func do[T any](t *testing.T, ctx context.Context, action chromedp.Action[T]) T { //nolint:revive // the test comes first, as in every helper
	t.Helper()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestInbox_inABrowserShowsTheMailAndRunsNothingInIt(t *testing.T) {
	var pictures atomic.Int32
	tracker := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { pictures.Add(1) }))
	t.Cleanup(tracker.Close)
	_, web := withMail(t, strings.ReplaceAll(htmlMail, "https://tracker.example", tracker.URL))
	ctx := browser(t)
	do(t, ctx, chromedp.Navigate(web.URL+"/inbox"))
	if subject := do(t, ctx, chromedp.Text(chromedp.CSS(".subject"))); subject != "<b>join</b> us" {
		t.Errorf("subject %q", subject)
	}
	screenshot(t, ctx, "list")
	do(t, ctx, chromedp.Click(chromedp.CSS(".list a")))
	do(t, ctx, chromedp.WaitVisible(chromedp.CSS("iframe")))
	if text := do(t, ctx, chromedp.Text(chromedp.CSS("section pre"))); !strings.Contains(text, "https://app.example/join?token=1") {
		t.Errorf("text %q", text)
	}
	screenshot(t, ctx, "mail")
	inside := frame(t, ctx)
	hello := do(t, inside, chromedp.Text(chromedp.CSS("#hello")))
	if title := do(t, inside, chromedp.Evaluate[string]("document.title")); hello != "Hello join" || title != "" {
		t.Errorf("in the frame: %q, title %q", hello, title)
	}
	if origin := do(t, inside, chromedp.Evaluate[string]("self.origin")); origin != "null" {
		t.Errorf("the frame has the origin %q", origin)
	}
	eventually(t, func() bool { return do(t, inside, chromedp.Evaluate[string]("document.readyState")) == "complete" })
	if asked := pictures.Load(); asked != 0 {
		t.Errorf("a picture from elsewhere was asked for %d times", asked)
	}
}

// frame goes into the sandboxed frame, which the browser runs as a target of its
// own.
func frame(t *testing.T, ctx context.Context) context.Context { //nolint:revive // as above
	t.Helper()
	var inside context.Context
	cancel := func() {}
	eventually(t, func() bool {
		infos, err := chromedp.Targets(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range infos {
			if info.Type == "iframe" && strings.HasSuffix(info.URL, "/html") {
				inside, cancel = chromedp.NewContext(ctx, chromedp.WithTargetID(info.TargetID))
				return true
			}
		}
		return false
	})
	t.Cleanup(cancel)
	return inside
}

// screenshot keeps a picture of the page where SCREENSHOTS names a folder.
func screenshot(t *testing.T, ctx context.Context, name string) { //nolint:revive // as above
	t.Helper()
	folder := os.Getenv("SCREENSHOTS")
	if folder == "" {
		return
	}
	if err := os.WriteFile(folder+"/"+name+".png", do(t, ctx, chromedp.FullScreenshot(100)), 0o600); err != nil {
		t.Fatal(err)
	}
}
