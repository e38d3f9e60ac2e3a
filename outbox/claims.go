package outbox

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
)

// claims is the River client of the moment. There is one while this daemon may
// fetch messages, and none while something speaks against it: a job that nobody
// fetched is in nobody's way.
type claims struct {
	mu     sync.Mutex
	client *river.Client[pgx.Tx]
}

func (c *claims) current() *river.Client[pgx.Tx] {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.client
}

func (c *claims) set(client *river.Client[pgx.Tx]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.client = client
}

// cancel ends the client without patience.
func (c *claims) cancel(ctx context.Context) error {
	client := c.current()
	if client == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return client.StopAndCancel(ctx)
}

// mayClaim says what speaks against fetching messages, if anything does.
func (r *Relay) mayClaim() error {
	if err := r.instance.trusted(); err != nil {
		return err
	}
	if err := r.instance.heldBack(); err != nil {
		return err
	}
	if n := r.unrecorded.Load(); n > 0 {
		return fmt.Errorf("the database did not take the outcome of %d messages yet", n)
	}
	return nil
}

// supervise fetches messages while nothing speaks against it, until the relay
// stops; then it waits for those in hand.
func (r *Relay) supervise() {
	every(r.stopping, 100*time.Millisecond, func() {
		objection := r.mayClaim()
		switch client := r.claims.current(); {
		case objection == nil && client == nil:
			if err := r.claim(); err != nil {
				r.Logger.Error("messages cannot be fetched, will try again", "error", err)
			}
		case objection != nil && client != nil:
			r.Logger.Warn("no messages are fetched", "reason", objection.Error())
			r.unclaim()
		}
	})
	r.unclaim()
}

// claim begins to fetch messages.
func (r *Relay) claim() error {
	client, err := r.newClient()
	if err != nil {
		return err
	}
	if err := client.Start(context.WithoutCancel(r.stopping)); err != nil {
		return err
	}
	r.Logger.Info("messages are fetched")
	r.claims.set(client)
	return nil
}

// unclaim fetches no more, and waits for the messages in hand.
func (r *Relay) unclaim() {
	if client := r.claims.current(); client != nil {
		_ = client.Stop(r.abandoned) // it fails only if that ends, and Stop says so
		r.claims.set(nil)
	}
}
