package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mailcrane/mailcrane/api"
)

func newOpenAPICmd([]string) *cobra.Command {
	return &cobra.Command{
		Use:   "openapi",
		Short: "Print the description of the HTTP API (OpenAPI 3.1)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			document, err := api.Description(programVersion())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", document)
			return err
		},
	}
}
