package api

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// provider says how a company that sends mail for others reports bounces in JSON.
// Values are found by paths: names with dots between, [] behind one for every item
// of a list, [name=x] for those whose member name is x in any case. What is at several
// places is a/b, and its values have a slash between. Of several paths, the first that
// leads to something counts.
type provider struct {
	Document   string            `json:"document"`   // where the report is as text, if not the body itself is it
	Events     string            `json:"events"`     // where the events are; default: the report is one
	Type       []string          `json:"type"`       // what has happened,
	Subtype    []string          `json:"subtype"`    // and more about it
	Kinds      map[string]string `json:"kinds"`      // what "type/subtype", or else its beginning up to a slash, means here; others are ignored
	Recipients []string          `json:"recipients"` // where an event has several recipients; the paths below begin there, or else at the event
	Address    []string          `json:"address"`
	Diagnostic []string          `json:"diagnostic"`
	At         []string          `json:"at"` // RFC 3339, or seconds since 1970
	ID         []string          `json:"id"`
	MessageID  []string          `json:"message_id"` // the Message-ID that we sent it under
}

//go:embed providers.json
var providersDocument []byte

func readProviders(document []byte) (map[string]provider, error) {
	var providers map[string]provider
	if err := json.Unmarshal(document, &providers); err != nil {
		return nil, fmt.Errorf("api: providers: %w", err)
	}
	return providers, nil
}

// report is what a provider says: bounces, and how many other events.
type report struct {
	bounces []outbox.Bounce
	ignored int
	results []outbox.Reported // of those that are recorded
}

// read finds the bounces in a report. What it does not understand it ignores: the
// provider would only send it again.
func (p provider) read(name string, document any) report {
	if text, ok := first(p.Document, document).(string); ok {
		if inner, err := decodeDocument([]byte(text)); err == nil {
			document = inner
		}
	}
	var r report
	for _, event := range values(p.Events, document) {
		kind := p.kind(textAt(p.Type, event) + "/" + textAt(p.Subtype, event))
		recipients := []any{event}
		for _, path := range p.Recipients {
			if found := values(path, event); len(found) > 0 {
				recipients = found
			}
		}
		for _, recipient := range recipients {
			address := textAt(p.Address, recipient, event)
			if kind == "" || address == "" {
				r.ignored++
				continue
			}
			b := outbox.Bounce{
				Kind: outbox.BounceKind(kind), Address: address, Source: name,
				Diagnostic:      textAt(p.Diagnostic, recipient, event),
				At:              parseTime(textAt(p.At, recipient, event)),
				HeaderMessageID: textAt(p.MessageID, recipient, event),
			}
			if id := textAt(p.ID, recipient, event); id != "" {
				b.SourceID = strings.TrimSpace(id + " " + kind)
				if len(recipients) > 1 {
					b.SourceID += " " + address
				}
			}
			r.bounces = append(r.bounces, b)
		}
	}
	return r
}

func (p provider) kind(what string) string {
	for {
		if kind, known := p.Kinds[what]; known {
			return kind
		}
		slash := strings.LastIndexByte(what, '/')
		if slash < 0 {
			return ""
		}
		what = what[:slash]
	}
}

// values are what a path leads to.
func values(path string, from any) []any {
	found := []any{from}
	if list, isList := from.([]any); path == "" || path == "[]" {
		if isList {
			return list
		}
		return found
	}
	for name := range strings.SplitSeq(path, ".") {
		name, which, isList := strings.Cut(strings.TrimSuffix(name, "]"), "[")
		var next []any
		for _, value := range found {
			object, _ := value.(map[string]any)
			switch member := object[name].(type) {
			case nil:
			case []any:
				for _, item := range member {
					if isList && is(item, which) {
						next = append(next, item)
					}
				}
			default:
				next = append(next, member)
			}
		}
		found = next
	}
	return found
}

// is says whether a member of item has a value, as in "name=x", or whether none is
// asked for.
func is(item any, which string) bool {
	if which == "" {
		return true
	}
	name, want, _ := strings.Cut(which, "=")
	object, _ := item.(map[string]any)
	got, isText := object[name].(string)
	return isText && strings.EqualFold(got, want)
}

func first(path string, from any) any {
	if found := values(path, from); path != "" && len(found) > 0 {
		return found[0]
	}
	return nil
}

// textAt is the first text or number that one of the paths leads to. Of what is at
// several places, the first must be there.
func textAt(paths []string, from ...any) string {
	for _, path := range paths {
		path, more, several := strings.Cut(path, "/")
		text := textOf(path, from)
		if text != "" && several {
			if rest := textAt([]string{more}, from...); rest != "" {
				text += "/" + rest
			}
		}
		if text != "" {
			return text
		}
	}
	return ""
}

// textOf leaves out NUL, which PostgreSQL does not take.
func textOf(path string, from []any) string {
	for _, place := range from {
		switch value := first(path, place).(type) {
		case string:
			if text := strings.ToValidUTF8(strings.ReplaceAll(value, "\x00", ""), "�"); text != "" {
				return text
			}
		case json.Number:
			return value.String()
		}
	}
	return ""
}

// parseTime reads a time, or gives the zero one.
func parseTime(text string) time.Time {
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds > 0 && seconds < math.MaxInt32*2 {
		return time.UnixMilli(int64(seconds * 1000)).UTC()
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil && at.Year() > 1970 && at.Year() < 2200 {
		return at
	}
	return time.Time{}
}
