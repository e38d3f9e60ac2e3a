//go:build !unix

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newBenchCmd([]string) *cobra.Command {
	return &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast this machine sends (not on this system)",
		RunE: func(*cobra.Command, []string) error {
			return errors.New("bench needs signals that this system has not: run it on Linux, macOS or BSD")
		},
	}
}
