package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Print writes the report for people.
func (r Report) Print(out io.Writer) error {
	table := [][]string{}
	if len(r.Runs) > 1 {
		table = append(table, []string{"", "median", "least", "most"})
	}
	for _, s := range r.Summary {
		row := []string{s.Label, round(s.Median)}
		if s.Unit != "" {
			row[0] += ", " + s.Unit
		}
		if len(r.Runs) > 1 {
			row = append(row, round(s.Least), round(s.Most))
		}
		table = append(table, row)
	}
	widest := 0
	for _, row := range table {
		widest = max(widest, utf8.RuneCountInString(row[0]))
	}
	var b strings.Builder
	for _, row := range table {
		fmt.Fprintf(&b, "%-*s", widest, row[0])
		for _, value := range row[1:] {
			fmt.Fprintf(&b, "%10s", value)
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(out, b.String()+"\n"+r.notes())
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
	if r.InMemory {
		fmt.Fprintln(&b, "WARNING: the database was in memory, where flushing costs nothing: set TMPDIR to a folder on a disk")
	}
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
