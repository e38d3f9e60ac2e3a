// Command mailcrane is the transactional outbox daemon: it sends the messages
// that applications have committed to PostgreSQL, serves the HTTP API, and sets
// up the schema. `mailcrane help` lists what it can do.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "mailcrane:", err)
		if errors.Is(err, errCritical) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// run is the program, for main and for tests. It ends when the command is done,
// when ctx ends, or on SIGINT or SIGTERM.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "mailcrane",
		Short:         "A transactional outbox on PostgreSQL: mail is sent for what was committed, and only for that",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	for _, newCommand := range []func([]string) *cobra.Command{
		newServeCmd, newDevCmd, newMigrateCmd, newInviteCmd, newHoldCmd, newReleaseCmd, newMarkSentCmd, newAdoptCmd, newEraseCmd, newKeysCmd, newAuditCmd,
		newTortureCmd, newBenchCmd, newOpenAPICmd, newConfigCmd, newHealthcheckCmd,
	} {
		root.AddCommand(newCommand(environ))
	}
	root.AddCommand(newVersionCmd())
	return root.ExecuteContext(ctx)
}
