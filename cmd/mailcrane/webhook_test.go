package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// receiver is a program that is told what happens.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	secret []byte
	got    map[string]int // by type
	copies map[string]int // by webhook-id
	wrong  int            // of which the signature is wrong
}

func startReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{status: http.StatusOK, got: map[string]int{}, copies: map[string]int{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		var event struct{ Type string }
		_ = json.Unmarshal(body, &event)
		r.mu.Lock()
		defer r.mu.Unlock()
		referee, _ := standardwebhooks.NewWebhookRaw(r.secret)
		if referee.Verify(body, request.Header) != nil {
			r.wrong++
		}
		if r.status == http.StatusOK {
			r.got[event.Type]++
		}
		r.copies[request.Header.Get("webhook-id")]++
		w.WriteHeader(r.status)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) has(eventType string, n int) func() bool {
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.got[eventType] == n
	}
}

func (r *receiver) answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

// From an invitation that is accepted to the program that is told, and everything
// that can go wrong on the way.
func TestServe_tellsWebhooksWhatHappens(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	r := startReceiver(t)
	const secret = "0123456789abcdef0123456789abcdef"
	startDaemon(t, append(settingsFor(pool, mailbox.Start(t, mailbox.Config{})), "MAILCRANE_WEBHOOK_ALLOW=127.0.0.0/8", "MAILCRANE_SECRET="+secret, "MAILCRANE_RETRY_MIN=1s"))
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	invite := func(email string) outbox.Receipt {
		t.Helper()
		receipt, err := outbox.Invite(ctx, pool, outbox.Invitation{GroupID: "g", Email: email, Link: "https://example.com/1"})
		must(err)
		return receipt
	}
	invite("before@example.com")
	id, err := outbox.CreateWebhook(ctx, pool, "", r.URL+"/hook", "invitation.accepted", "message.*")
	must(err)
	r.secret = outbox.WebhookSecret([]byte(secret), id, 1)
	first := invite("ada@example.com")
	_, err = outbox.AcceptInvitation(ctx, pool, first.InvitationID)
	must(err)
	waitFor(t, r.has("invitation.accepted", 1), "news of the acceptance")

	r.answer(http.StatusServiceUnavailable) // down for a while
	_, err = outbox.AcceptInvitation(ctx, pool, invite("grace@example.com").InvitationID)
	must(err)
	waitFor(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, n := range r.copies {
			if n > 1 {
				return true
			}
		}
		return false
	}, "another try")
	must(outbox.RotateWebhook(ctx, pool, id)) // the receiver goes on with the old secret
	r.answer(http.StatusOK)
	waitFor(t, r.has("invitation.accepted", 2), "what the receiver missed")

	r.mu.Lock()
	r.secret = outbox.WebhookSecret([]byte(secret), id, 2)
	r.mu.Unlock()
	must(outbox.ReplayWebhook(ctx, pool, id, ""))
	waitFor(t, r.has("invitation.accepted", 4), "everything once more")

	r.answer(http.StatusGone)
	_, err = outbox.AcceptInvitation(ctx, pool, invite("alan@example.com").InvitationID)
	must(err)
	waitFor(t, func() bool {
		w, err := outbox.GetWebhook(ctx, pool, id)
		return err == nil && w.DisabledAt != nil && w.DisabledBecause == "it answered 410 Gone"
	}, "the webhook to be disabled")
	r.answer(http.StatusOK)
	must(outbox.EnableWebhook(ctx, pool, id))
	waitFor(t, r.has("invitation.accepted", 5), "what the receiver was not there for")
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wrong != 0 || r.got["invitation.created"] != 0 {
		t.Errorf("%d requests with a wrong signature, %v", r.wrong, r.got)
	}
	var loops, findings int
	must(pool.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM mailcrane.event AS e JOIN mailcrane.message AS m ON m.id = e.message_id WHERE m.channel = 'webhook'),
		       (SELECT count(*) FROM mailcrane.audit())`).Scan(&loops, &findings))
	if loops != 0 || findings != 0 {
		t.Errorf("%d events about messages to webhooks, %d findings of the audit", loops, findings)
	}
}

// mailcrane dev allows this machine, and by http no other.
func TestDev_refusesWebhooksThatNothingReaches(t *testing.T) {
	t.Parallel()
	_, base, _ := startDev(t)
	for url, want := range map[string]int{
		"http://127.0.0.1:9/": http.StatusCreated, "http://10.1.2.3/": http.StatusUnprocessableEntity, "http://93.184.215.14/": http.StatusUnprocessableEntity,
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/v1/webhooks", strings.NewReader(`{"url":"`+url+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %s", url, response.Status)
		}
	}
}
