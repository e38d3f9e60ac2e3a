package localpg_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox/localpg"
)

// A server for as long as it is needed, which leaves nothing behind.
func ExampleStart() {
	ctx := context.Background()
	server, err := localpg.Start(ctx, localpg.Config{Ephemeral: true})
	if err != nil {
		panic(err)
	}
	defer server.Stop(ctx) //nolint:errcheck // the example is over

	conn, err := pgx.Connect(ctx, server.URL())
	if err != nil {
		panic(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the example is over
	var answer int
	if err := conn.QueryRow(ctx, `SELECT 6 * 7`).Scan(&answer); err != nil {
		panic(err)
	}
	fmt.Println(answer)
	// Output: 42
}
