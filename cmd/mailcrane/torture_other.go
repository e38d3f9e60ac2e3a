//go:build !unix

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newTortureCmd([]string) *cobra.Command {
	return &cobra.Command{
		Use:   "torture",
		Short: "Prove the promise (not on this system)",
		RunE: func(*cobra.Command, []string) error {
			return errors.New("torture needs signals that this system has not: run it on Linux, macOS or BSD")
		},
	}
}
