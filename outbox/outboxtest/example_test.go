package outboxtest_test

import (
	"context"
	"fmt"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// An application's code runs against a real database; a Recorder stands in for
// the mail relay.
func Example() {
	ctx := context.Background()
	pool, drop, err := outboxtest.Open(ctx) // in a test: outboxtest.Database(t)
	if err != nil {
		panic(err)
	}
	defer drop() //nolint:errcheck // the example is over

	recorder := &outboxtest.Recorder{}
	relay, err := outbox.NewRelay(outbox.RelayConfig{Pool: pool, Senders: map[string]outbox.Sender{"email": recorder}, AllowUnsafe: true})
	if err != nil {
		panic(err)
	}
	if err := relay.Start(ctx); err != nil {
		panic(err)
	}
	defer relay.Stop(ctx) //nolint:errcheck // the example is over

	_, err = outbox.Enqueue(ctx, pool, outbox.Draft{
		Recipient: "ada@example.com",
		Template:  "verify",
		Data:      map[string]any{"link": "https://app.example/verify/1"},
	})
	if err != nil {
		panic(err)
	}
	messages, err := recorder.Wait(ctx, 1)
	if err != nil {
		panic(err)
	}
	fmt.Println(messages[0].Template, "to", messages[0].Recipient)
	// Output: verify to ada@example.com
}
