package main

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// A transaction of the application that stays open makes requests about the same
// address wait, and clients repeat those. Mail goes out all the same.
func TestServe_sendsWhileAllRequestsWaitForALock(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	box := mailbox.Start(t, mailbox.Config{})
	tx := outboxtest.Begin(t, pool)
	invite(t, tx, "locked@example.com")
	address := freeAddress(t)
	startDaemon(t, settingsFor(pool, box, "MAILCRANE_LISTEN="+address, "MAILCRANE_LEASE=2s"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var clients sync.WaitGroup
	for range 30 {
		clients.Go(func() {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/v1/groups/42/invitations", strings.NewReader(`{"email":"locked@example.com"}`))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Content-Type", "application/json")
			if response, err := http.DefaultClient.Do(r); err == nil {
				_ = response.Body.Close() // the answer does not matter
			}
		})
	}
	clients.Wait()
	id := invite(t, pool, "free@example.com")
	waitForStatus(t, pool, id, outbox.StatusSent)
	if n := len(box.Mails("locked@example.com")); n != 0 {
		t.Error("the lock was none")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
}

// A request does not wait for a lock as long as that lasts: it is told so, and what it
// has asked for is not carried out behind its back.
func TestServe_requestsDoNotWaitForLocksForEver(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	tx := outboxtest.Begin(t, pool)
	invite(t, tx, "locked@example.com")
	address := freeAddress(t)
	startDaemon(t, settingsFor(pool, mailbox.Start(t, mailbox.Config{}), "MAILCRANE_LISTEN="+address))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/v1/groups/42/invitations", strings.NewReader(`{"email":"locked@example.com"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" {
		t.Errorf("the answer is %s", response.Status)
	}
	var waiting int
	err = pool.QueryRow(t.Context(), `
		SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'mailcrane' AND wait_event_type = 'Lock'`).Scan(&waiting)
	if err != nil || waiting != 0 {
		t.Errorf("%d connections wait for the lock still, %v", waiting, err)
	}
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // it was only asked
	return listener.Addr().String()
}
