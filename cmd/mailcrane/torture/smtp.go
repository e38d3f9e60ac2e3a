//go:build unix

package torture

import (
	"context"
	"fmt"
	"time"

	"github.com/mailcrane/mailcrane/outbox/localpg/pgproxy"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// holdTenant has the policy hold.
const holdTenant = "hold"

// steps does one thing after the other, and lets everything recover after each.
func (r *round) steps(ctx context.Context, steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
		if err := r.recovered(ctx); err != nil {
			return err
		}
	}
	return nil
}

func justWrite(context.Context, *round) error { return nil }

func (r *round) killAt(ctx context.Context, fault mailbox.Fault) error {
	fault.Times = 1
	return r.act(ctx, fault, 1, (*daemon).kill)
}

func killBeforeTheDot(ctx context.Context, r *round) error {
	return r.steps(ctx,
		func() error {
			return r.breakSQL(ctx, sqlFault{Fault: pgproxy.Fault{Statement: fetchSQL, At: pgproxy.Reply}, rows: true, do: (*daemon).kill})
		},
		func() error { return r.killAt(ctx, mailbox.Fault{At: mailbox.EHLO}) },
		func() error { return r.killAt(ctx, mailbox.Fault{At: mailbox.Rcpt}) },
		func() error {
			if _, _, err := r.enqueue(ctx, "big", "big"); err != nil {
				return err
			}
			return r.killAt(ctx, mailbox.Fault{At: mailbox.Body, To: "big-"})
		},
	)
}

func breakTemplates(ctx context.Context, r *round) error {
	for i := range 5 {
		letter, _, err := r.enqueue(ctx, fmt.Sprint("broken", i), "broken")
		if err != nil {
			return err
		}
		letter.fails = true
	}
	return r.recovered(ctx)
}

func killAfterTheDot(ctx context.Context, r *round) error {
	return r.steps(ctx,
		func() error { return r.killAt(ctx, mailbox.Fault{At: mailbox.Dot, Keep: true}) },
		func() error { return r.killBeforeClose(ctx) },
		func() error { return r.killAt(ctx, mailbox.Fault{At: mailbox.Dot}) },
		func() error { return r.killBeforeClose(ctx) },
	)
}

func (r *round) killBeforeClose(ctx context.Context) error {
	return r.breakSQL(ctx, sqlFault{Fault: pgproxy.Fault{Statement: closeSQL, Cut: true, Times: 1}, do: (*daemon).kill})
}

// killAfterTheDotOnHold expects that nothing is repeated, and that a human gets
// to decide about each attempt that was open.
func killAfterTheDotOnHold(ctx context.Context, r *round) error {
	if err := killAfterTheDot(ctx, r); err != nil {
		return err
	}
	var held, unknown int
	err := r.pool.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM mailcrane.message WHERE status = 'held'),
		       (SELECT count(*) FROM mailcrane.attempt AS a JOIN mailcrane.message AS m ON m.id = a.message_id
		        WHERE a.was_unknown AND m.recipient LIKE '%' || $1 || '%')`, r.writers.prefix).Scan(&held, &unknown)
	if err != nil {
		return err
	}
	if held != unknown || held == 0 {
		r.breaks("%d messages are held, and %d attempts were unknown", held, unknown)
	}
	return nil
}

func resetAfterTheDot(ctx context.Context, r *round) error {
	reset := func(kept bool) func() error {
		return func() error {
			return r.act(ctx, mailbox.Fault{At: mailbox.Dot, Keep: kept, Close: true, Times: 1}, 1, nil)
		}
	}
	return r.steps(ctx, reset(true), reset(false), reset(true), reset(false))
}

func answerLate(ctx context.Context, r *round) error {
	late := func(delay time.Duration) func() error {
		return func() error {
			err := r.act(ctx, mailbox.Fault{At: mailbox.Dot, Keep: true, Delay: delay, Reply: "250 2.0.0 taken at last", Times: 2}, 1, nil)
			if err != nil {
				return err
			}
			return r.wait(ctx, delay)
		}
	}
	return r.steps(ctx, late(r.outage(5*time.Second)), late(r.outage(time.Minute)), late(r.outage(5*time.Minute)))
}

func failAfterwards(ctx context.Context, r *round) error {
	for _, fault := range []mailbox.Fault{
		{At: mailbox.Rset, Reply: "502 5.5.1 what is that", Times: 1},
		{At: mailbox.Rset, Close: true, Times: 1},
		{At: mailbox.Quit, Close: true},
		{At: mailbox.Quit, Reply: "421 4.3.0 no time"},
	} {
		removeRefusals, _ := r.inject(mailbox.Fault{At: mailbox.Rcpt, Reply: "451 4.3.0 not now", Times: 3}, nil) // what RSET follows
		err := r.act(ctx, fault, 2, nil)
		removeRefusals()
		if err != nil {
			return err
		}
	}
	return nil
}

func refuse(ctx context.Context, r *round) error {
	for name, fault := range map[string]mailbox.Fault{
		"bounce": {At: mailbox.Rcpt, To: "bounce", Reply: "550 5.1.1 no such user\n5.1.1 and there never was"},
		"spam":   {At: mailbox.Dot, To: "spam", Reply: "554 5.7.1 this is spam"},
	} {
		remove, _ := r.inject(fault, nil)
		r.later(remove)
		letter, _, err := r.enqueue(ctx, name, "verify")
		if err != nil {
			return err
		}
		letter.fails = true
	}
	for _, fault := range []mailbox.Fault{
		{At: mailbox.Greeting, Reply: "421 4.3.2 too busy", Close: true},
		{At: mailbox.EHLO, Reply: "451 4.3.0 not now"},
		{At: mailbox.MailFrom, Reply: "451 4.3.0 one\n4.3.0 two"},
		{At: mailbox.Rcpt, Reply: "450 4.7.1 greylisted"},
		{At: mailbox.Rcpt, Reply: "421 4.7.0 slow down", Close: true},
		{At: mailbox.Data, Reply: "451 4.3.0 not now"},
		{At: mailbox.Dot, Reply: "451 4.3.0 not now"},
		{At: mailbox.Dot, Reply: "452 4.3.1 full\n4.3.1 really"},
		{At: mailbox.Greeting, Reply: "554 5.3.2 go away", Close: true},
	} {
		fault.Times = 1
		if err := r.act(ctx, fault, 1, nil); err != nil {
			return err
		}
	}
	return r.recovered(ctx)
}

func relaysDown(ctx context.Context, r *round) error {
	down := func(down bool, relays ...int) {
		for _, d := range r.active() {
			for _, i := range relays {
				d.relays[i].SetDown(down)
			}
		}
	}
	outage := func(full time.Duration, relays ...int) func() error {
		return func() error {
			down(true, relays...)
			defer down(false, relays...)
			return r.wait(ctx, r.outage(full))
		}
	}
	flap := func() error {
		for range 5 {
			if err := outage(5*time.Second, 0, 1)(); err != nil {
				return err
			}
			if err := r.wait(ctx, r.outage(5*time.Second)); err != nil {
				return err
			}
		}
		return nil
	}
	return r.steps(ctx, outage(10*time.Minute, 0), flap, outage(time.Minute, 0, 1))
}

// poison is a message that a daemon dies of whenever it comes near it.
func poison(ctx context.Context, r *round) error {
	remove := r.injectOn(mailbox.Fault{At: mailbox.Rcpt, To: "poison-"}, (*daemon).kill)
	defer remove()
	_, receipt, err := r.enqueue(ctx, "poison", "verify")
	if err != nil {
		return err
	}
	if err := r.recovered(ctx); err != nil { // which includes that it is no longer queued
		return err
	}
	heldBy := ""
	if err := r.pool.QueryRow(ctx, `SELECT coalesce(held_by, '') FROM mailcrane.message WHERE id = $1::text::uuid`, receipt.MessageID).Scan(&heldBy); err != nil {
		return err
	}
	if heldBy != "poison" {
		r.breaks("the poison is held by %q", heldBy)
	}
	remove()
	_, err = r.pool.Exec(ctx, `SELECT mailcrane.release_message($1::text::uuid)`, receipt.MessageID)
	return err
}
