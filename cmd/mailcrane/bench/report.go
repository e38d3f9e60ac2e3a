package bench

import "fmt"

// Mode is what is measured.
type Mode string

// The modes.
const (
	Drain    Mode = "drain"    // a full queue, and nothing else to do
	Enqueue  Mode = "enqueue"  // writing, without a daemon
	EndToEnd Mode = "e2e"      // writing and sending at the same time
	Latency  Mode = "latency"  // from the commit to the relay's answer, at a steady rate
	Backlog  Mode = "backlog"  // a full queue in a database with millions of messages
	Idle     Mode = "idle"     // nothing to do
	Fairness Mode = "fairness" // single messages while another tenant has filled the queue
)

// Report is what was measured.
type Report struct {
	Mode       Mode           `json:"mode"`
	Version    string         `json:"version"`
	PostgreSQL string         `json:"postgresql"`
	Go         string         `json:"go"`
	System     string         `json:"system"`
	Cores      int            `json:"cores"`
	Settings   map[string]any `json:"settings"`  // of this call
	Server     []Setting      `json:"server"`    // what matters of PostgreSQL's settings
	InMemory   bool           `json:"in_memory"` // our own server has no disk under it
	Runs       []Run          `json:"runs"`
	Summary    Summary        `json:"summary"`
}

// Setting is one of PostgreSQL's.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Run is one run.
type Run struct {
	Figures  Figures  `json:"figures"`
	Foreign  *float64 `json:"foreign_cpu_percent"` // of all processors, while it was measured; nil: not known
	Failures []string `json:"failures"`
	Remarks  []string `json:"remarks"`
}

// foreignLimit is the share of the machine that others may take, in percent,
// before a run is called noisy.
const foreignLimit = 10

// Noisy says whether others worked on the machine so much that the figures say
// little.
func (r Run) Noisy() bool { return r.Foreign != nil && *r.Foreign > foreignLimit }

// Failed says whether any run has.
func (r Report) Failed() bool {
	for _, run := range r.Runs {
		if len(run.Failures) > 0 {
			return true
		}
	}
	return false
}

func (r *Run) fail(format string, values ...any) {
	r.Failures = append(r.Failures, fmt.Sprintf(format, values...))
}

func (r *Run) remark(format string, values ...any) {
	r.Remarks = append(r.Remarks, fmt.Sprintf(format, values...))
}

func (r *Run) add(f ...Figure) { r.Figures = append(r.Figures, f...) }
