package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Severity says how bad a [Finding] is.
type Severity string

// The severities. Only a critical finding breaks the promise.
const (
	Critical Severity = "critical"
	Warning  Severity = "warning"
	Info     Severity = "info"
)

// Finding is something that contradicts what this package promises, or will. The
// comments in migrations/000023_audit.up.sql list the checks.
type Finding struct {
	Check     string   `json:"check"`
	Severity  Severity `json:"severity"`
	MessageID *string  `json:"message_id"`
	JobID     *int64   `json:"job_id"`
	Detail    string   `json:"detail"`
}

// Audit looks at everything that is unfinished, and at what happened within the
// given time (0: 24 hours). No finding means that the promise is kept.
func Audit(ctx context.Context, tx Tx, since time.Duration) ([]Finding, error) {
	if since <= 0 {
		since = 24 * time.Hour
	}
	findings, err := query(ctx, tx, pgx.RowToStructByPos[Finding], `
		SELECT a.check_name, a.severity, a.message_id::text, a.job_id, a.detail
		FROM mailcrane.audit($1::text::interval) AS a
		ORDER BY array_position(ARRAY['critical', 'warning', 'info'], a.severity), a.check_name, a.message_id, a.job_id`,
		optionalInterval(since))
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return findings, nil
}

// Repaired is how many rows [Repair] has put right, by check.
type Repaired struct {
	Check string `json:"check"`
	Rows  int64  `json:"rows"`
}

// Repair brings the queue back into line with the messages, and the messages with
// their attempts. It never touches an attempt, so it cannot cause a second copy.
func Repair(ctx context.Context, tx Tx) ([]Repaired, error) {
	repaired, err := query(ctx, tx, pgx.RowToStructByPos[Repaired], `SELECT r.check_name, r.repaired FROM mailcrane.repair() AS r`)
	if err != nil {
		return nil, fmt.Errorf("repair: %w", err)
	}
	return repaired, nil
}
