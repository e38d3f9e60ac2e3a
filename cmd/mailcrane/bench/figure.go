package bench

import (
	"encoding/json"
	"slices"
	"time"
)

// Figure is one thing that was measured.
type Figure struct {
	Name  string // for programs
	Label string // for people
	Unit  string
	Value float64
}

// Figures are those of a run, in the order in which people read them. As JSON
// they are an object.
type Figures []Figure

// MarshalJSON implements json.Marshaler.
func (f Figures) MarshalJSON() ([]byte, error) {
	values := map[string]float64{}
	for _, figure := range f {
		values[figure.Name] = figure.Value
	}
	return json.Marshal(values)
}

func (f Figures) get(name string) (Figure, bool) {
	for _, figure := range f {
		if figure.Name == name {
			return figure, true
		}
	}
	return Figure{}, false
}

// Spread is a figure over all runs.
type Spread struct {
	Figure `json:"-"`
	Unit   string  `json:"unit"`
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
}

// Summary is all of them. As JSON it is an object.
type Summary []Spread

// MarshalJSON implements json.Marshaler.
func (s Summary) MarshalJSON() ([]byte, error) {
	spreads := map[string]Spread{}
	for _, spread := range s {
		spreads[spread.Name] = spread
	}
	return json.Marshal(spreads)
}

// summarize keeps the order in which the figures first come up: a run may lack
// some.
func summarize(runs []Run) Summary {
	var all Summary
	values := map[string][]float64{}
	for _, run := range runs {
		for _, f := range run.Figures {
			if values[f.Name] == nil {
				all = append(all, Spread{Figure: f, Unit: f.Unit})
			}
			values[f.Name] = append(values[f.Name], f.Value)
		}
	}
	for i, spread := range all {
		found := values[spread.Name]
		slices.Sort(found)
		all[i].Least, all[i].Most = found[0], found[len(found)-1]
		all[i].Median = (found[(len(found)-1)/2] + found[len(found)/2]) / 2
	}
	return all
}

// Waits is how long something took that was done often, in milliseconds.
type Waits struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func waitsOf(all []time.Duration) Waits {
	if len(all) == 0 {
		return Waits{}
	}
	slices.Sort(all)
	at := func(share float64) float64 { return milliseconds(all[int(share*float64(len(all)-1))]) }
	return Waits{P50: at(0.5), P99: at(0.99), Max: at(1)}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// figures of the waits, under a name.
func (w Waits) figures(name, label string) Figures {
	return Figures{
		{name + "_p50_ms", label + ", median", "ms", w.P50},
		{name + "_p99_ms", label + ", 99th percentile", "ms", w.P99},
		{name + "_max_ms", label + ", longest", "ms", w.Max},
	}
}
