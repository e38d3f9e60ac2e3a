package outbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrNotFound means that there is no row with the given id.
var ErrNotFound = errors.New("not found")

// Problem is one thing that is wrong with the input of a call. It never repeats
// the value.
type Problem struct {
	Item    int    `json:"item"`    // place in the batch, from 0
	Field   string `json:"field"`   // such as "email"
	Problem string `json:"problem"` // such as "is missing"
}

// InputError means that the database refused the input and wrote nothing. It
// lists everything that is wrong, in the order of the items.
type InputError struct {
	Problems []Problem
	Hint     string // what to do about it
}

// Error lists the problems.
func (e *InputError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = fmt.Sprintf("%s %s", p.Field, p.Problem)
		if p.Item > 0 {
			lines[i] = fmt.Sprintf("item %d: %s", p.Item, lines[i])
		}
	}
	return "invalid input: " + strings.Join(lines, "; ")
}

// LimitError means that something was asked for too often, or too soon. Nothing
// was written.
type LimitError struct {
	Limit      string        // what the database said
	RetryAfter time.Duration // when it is possible again, in whole seconds; 0: never
}

// Error says which limit it is.
func (e *LimitError) Error() string { return e.Limit }

// invalidParameter is the SQLSTATE of what the write path refuses.
const invalidParameter = "22023"

// asInputError turns the database's refusal into an [*InputError] and leaves
// any other error as it is.
func asInputError(err error) error {
	if sqlState(err) != invalidParameter {
		return err
	}
	input := &InputError{}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		input.Hint = pgErr.Hint
		if json.Unmarshal([]byte(pgErr.Detail), &input.Problems) == nil && len(input.Problems) > 0 {
			return input
		}
	}
	// Another driver, which keeps the detail to itself.
	input.Problems = []Problem{{Field: "input", Problem: err.Error()}}
	return input
}

// waitSaid is in the error whatever the driver leaves out of it.
var waitSaid = regexp.MustCompile(`wait ([0-9]+) seconds`)

// asRefusal turns what the database refuses into an [*InputError] or a
// [*LimitError], and leaves any other error as it is.
func asRefusal(err error) error {
	if sqlState(err) != "53400" {
		return asInputError(err)
	}
	limit := &LimitError{Limit: err.Error()}
	if said := waitSaid.FindStringSubmatch(limit.Limit); said != nil {
		seconds, _ := strconv.Atoi(said[1])
		limit.RetryAfter = time.Duration(seconds) * time.Second
	}
	return limit
}

// sqlState is the SQLSTATE of an error of the database, whatever the driver.
func sqlState(err error) string {
	if state, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err); ok {
		return state.SQLState()
	}
	return ""
}
