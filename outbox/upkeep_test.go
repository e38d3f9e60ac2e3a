package outbox_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/localpg/pgproxy"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// Its sessions are its own: each knows what it does, and waits for nobody's turn.
func TestUpkeep_goesOnWhileMailsHaveAllConnections(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	config := pool.Config()
	config.MaxConns = 4
	busy, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(busy.Close)
	startRelay(t, busy, &hop{}, func(c *outbox.RelayConfig) { c.PollOnly = true })
	for range config.MaxConns {
		conn, err := busy.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
	}
	exec(t, pool, `INSERT INTO mailcrane.invitation (group_id, email, expires_at) VALUES ('g', 'ada@example.com', now())`)
	eventuallyZero(t, pool, `SELECT count(*) FROM mailcrane.invitation WHERE status = 'pending'`)
}

// Somebody has locked what pruning needs, and is at lunch.
func TestUpkeep_waitsForALockWithOneHandOnly(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	tx := outboxtest.Begin(t, pool)
	if _, err := tx.Exec(t.Context(), `LOCK mailcrane.retention IN EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	if _, err := outbox.CreateWebhook(t.Context(), pool, "", "https://example.com/hook"); err != nil {
		t.Fatal(err)
	}
	startRelay(t, pool, &hop{}, func(c *outbox.RelayConfig) { c.Senders[outbox.WebhookChannel] = &hop{} })
	eventuallyZero(t, pool, `
		SELECT 1 - least(1, count(*)) FROM pg_stat_activity
		WHERE datname = current_database() AND query LIKE '%prune(%' AND wait_event_type = 'Lock'`)

	eventually(t, pool, ofTheDead(t, pool), hasStatus(outbox.StatusSent))
	eventuallyZero(t, pool, `SELECT 1 - least(1, count(*)) FROM mailcrane.message WHERE channel = 'webhook'`)
}

// A statement is sent, and the server never says anything again. The next one does
// not wait for that.
func TestUpkeep_goesOnWhenTheServerGoesSilent(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	proxy := outboxtest.Proxy(t, pool.Config().ConnString())
	far, err := pgxpool.New(t.Context(), proxy.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(far.Close)
	if _, err := outbox.CreateWebhook(t.Context(), pool, "", "https://example.com/hook"); err != nil {
		t.Fatal(err)
	}
	silent := make(chan struct{}, 2)
	for _, statement := range []string{"find_crowd()", "webhooks_behind()"} {
		proxy.Inject(pgproxy.Fault{Statement: statement, At: pgproxy.Reply, Hang: time.Hour, Times: 1, Do: func() { silent <- struct{}{} }})
	}
	startRelay(t, far, &hop{}, func(c *outbox.RelayConfig) { c.Senders[outbox.WebhookChannel] = &hop{} })
	<-silent
	<-silent

	// Each comes at its limit, and at the 15 s for which pgx waits for a goodbye.
	eventually(t, pool, ofTheDead(t, pool), hasStatus(outbox.StatusSent))
	eventuallyZero(t, pool, `SELECT 1 - least(1, count(*)) FROM mailcrane.message WHERE channel = 'webhook'`)
}

// ofTheDead gives a message that nobody sends before the reaper has come.
func ofTheDead(t *testing.T, pool *pgxpool.Pool) (id string) {
	t.Helper()
	receipt, err := outbox.Enqueue(t.Context(), pool, outbox.Draft{Recipient: "ada@example.com", Template: "verify", SendAfter: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	another(t, pool, receipt.MessageID, false)
	return receipt.MessageID
}
