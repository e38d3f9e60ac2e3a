package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newConfigCmd(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the configuration and where each value comes from, without secrets",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := load(cmd.Flags(), environ, choose())
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), c)
			return err
		},
	}
	addFlags(cmd.Flags(), choose())
	return cmd
}
