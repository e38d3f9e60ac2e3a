//go:build unix

package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Print writes the report for people.
func (r Report) Print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(format string, values ...any) { _, _ = fmt.Fprintf(table, format+"\n", values...) } // Flush tells
	if len(r.Runs) > 1 {
		line("\tmedian\tleast\tmost\t")
	}
	for _, s := range r.Summary {
		label := s.Label
		if s.Unit != "" {
			label += ", " + s.Unit
		}
		if len(r.Runs) > 1 {
			line("%s\t%s\t%s\t%s\t", label, round(s.Median), round(s.Least), round(s.Most))
			continue
		}
		line("%s\t%s\t", label, round(s.Median))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(out, "\n"+r.notes())
	return err
}

// round keeps three digits that matter.
func round(value float64) string {
	switch {
	case value == 0:
		return "0"
	case value >= 100 || value <= -100:
		return fmt.Sprintf("%.0f", value)
	case value >= 10:
		return fmt.Sprintf("%.1f", value)
	case value >= 1:
		return fmt.Sprintf("%.2f", value)
	default:
		return fmt.Sprintf("%.3f", value)
	}
}

// notes are what the figures depend on, and what is to be said about them.
func (r Report) notes() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, mailcrane %s, PostgreSQL %s, %s %s, %d processors\n", r.Mode, r.Version, r.PostgreSQL, r.Go, r.System, r.Cores)
	server := make([]string, len(r.Server))
	for i, s := range r.Server {
		server[i] = s.Name + "=" + s.Value
	}
	fmt.Fprintf(&b, "PostgreSQL: %s\n", strings.Join(server, " "))
	names := make([]string, 0, len(r.Settings))
	for name := range r.Settings {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Fprint(&b, "this call:")
	for _, name := range names {
		fmt.Fprintf(&b, " %s=%v", name, r.Settings[name])
	}
	fmt.Fprintln(&b)
	for n, run := range r.Runs {
		run.notes(&b, n+1)
	}
	return b.String()
}

func (r Run) notes(b *strings.Builder, n int) {
	if r.Foreign == nil {
		fmt.Fprintf(b, "run %d: what other programs did is not known\n", n)
	} else {
		fmt.Fprintf(b, "run %d: other programs had %.1f %% of the processors\n", n, *r.Foreign)
	}
	if r.Noisy() {
		fmt.Fprintf(b, "WARNING: run %d shared the machine with others: its figures say little\n", n)
	}
	for _, remark := range r.Remarks {
		fmt.Fprintf(b, "run %d: %s\n", n, remark)
	}
	for _, failure := range r.Failures {
		fmt.Fprintf(b, "FAILED: run %d: %s\n", n, failure)
	}
}
