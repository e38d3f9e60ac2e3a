package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// inviteAda writes the invitation, its message and whatever else the application
// has to write in one transaction of pgx.
func inviteAda(ctx context.Context, pool *pgxpool.Pool) error {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) // does nothing after Commit
	_, err = outbox.Invite(ctx, tx, outbox.Invitation{
		GroupID: "42", GroupName: "Analytical Engine Club", Email: "ada@example.com", InviterName: "Charles",
	})
	if err != nil {
		return err
	}
	return tx.Commit(ctx) // from here on it is sent, and not before
}

// See inviteAda, just above.
func ExampleInvite() {
	ctx := context.Background()
	pool, drop, err := outboxtest.Open(ctx)
	if err != nil {
		panic(err)
	}
	defer drop() //nolint:errcheck // the example is over

	if err := inviteAda(ctx, pool); err != nil {
		panic(err)
	}
	messages, err := outbox.ListMessages(ctx, pool, outbox.MessageFilter{Recipient: "ada@example.com"})
	if err != nil {
		panic(err)
	}
	fmt.Println(messages[0].Template, messages[0].Status)
	// Output: invitation queued
}

// The same on a transaction of database/sql, with any driver for PostgreSQL.
func ExampleSQL() {
	ctx := context.Background()
	pool, drop, err := outboxtest.Open(ctx)
	if err != nil {
		panic(err)
	}
	defer drop() //nolint:errcheck // the example is over
	db, err := sql.Open("pgx", pool.Config().ConnString())
	if err != nil {
		panic(err)
	}
	defer db.Close() //nolint:errcheck // the example is over

	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		panic(err)
	}
	receipt, err := outbox.Invite(ctx, outbox.SQL(tx), outbox.Invitation{GroupID: "42", Email: "ada@example.com"})
	if err != nil {
		panic(err)
	}
	if err := tx.Rollback(); err != nil {
		panic(err)
	}
	_, err = outbox.GetMessage(ctx, pool, receipt.MessageID)
	fmt.Println(errors.Is(err, outbox.ErrNotFound)) // rolled back: there never was a mail
	// Output: true
}

// A batch is one round trip, all or none. An address that has a pending
// invitation is not invited again.
func ExampleInviteMany() {
	ctx := context.Background()
	pool, drop, err := outboxtest.Open(ctx)
	if err != nil {
		panic(err)
	}
	defer drop() //nolint:errcheck // the example is over

	receipts, err := outbox.InviteMany(ctx, pool, []outbox.Invitation{
		{GroupID: "42", Email: "ada@example.com"},
		{GroupID: "42", Email: "grace@example.com"},
		{GroupID: "42", Email: "ADA@example.com"},
	})
	if err != nil {
		panic(err)
	}
	for _, r := range receipts {
		fmt.Println(r.Result)
	}
	// Output:
	// created
	// created
	// existing
}

// Bad input is refused as a whole, with all that is wrong.
func ExampleInputError() {
	ctx := context.Background()
	pool, drop, err := outboxtest.Open(ctx)
	if err != nil {
		panic(err)
	}
	defer drop() //nolint:errcheck // the example is over

	_, err = outbox.Invite(ctx, pool, outbox.Invitation{GroupID: "42", Email: "ada at example.com", Priority: 7})
	if input, ok := errors.AsType[*outbox.InputError](err); ok {
		for _, p := range input.Problems {
			fmt.Println(p.Field, p.Problem)
		}
	}
	// Output:
	// email is not an address of the form name@example.com
	// priority is not a whole number from 1 (first) to 4 (last)
}

// Any other message: a template, its values, and a key that makes a second call
// harmless.
func ExampleEnqueue() {
	ctx := context.Background()
	pool, drop, err := outboxtest.Open(ctx)
	if err != nil {
		panic(err)
	}
	defer drop() //nolint:errcheck // the example is over

	for range 2 {
		receipt, err := outbox.Enqueue(ctx, pool, outbox.Draft{
			Recipient:      "ada@example.com",
			Template:       "verify",
			Data:           map[string]any{"link": "https://app.example/verify/7f3a"},
			IdempotencyKey: "verify-user-17",
		})
		if err != nil {
			panic(err)
		}
		fmt.Println(receipt.Result)
	}
	// Output:
	// created
	// existing
}
