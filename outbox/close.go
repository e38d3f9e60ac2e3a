package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river"
)

// close is the last short transaction of a delivery (R5): outcome, message and
// job in one commit that nothing cancels and that is repeated until it succeeds,
// for nobody else knows what it has to say.
func (t *try) close(reply Reply, sendErr error) error {
	outcome := t.outcome(sendErr)
	if errors.Is(sendErr, errLostRight) {
		t.log(outcome, reply, sendErr)
		return t.giveBack(time.Second) // nothing was written: whoever has the message now will see to it
	}
	backoff := t.relay.backoff(t.message.Attempt)
	if outcome == Unknown && t.unknown == t.allowed {
		backoff = 0 // a human has to decide, which open says next
	}
	var mine bool
	failed := false
	err := t.insist(t.relay.abandoned, "outcome not recorded", func(ctx context.Context) (err error) {
		if mine, err = t.record(ctx, outcome, reply, sendErr, backoff); err != nil && !failed {
			failed = true
			t.relay.unrecorded.Add(1)
		}
		return err
	})
	if failed {
		t.relay.unrecorded.Add(-1)
	}
	if err != nil {
		return err
	}
	t.log(outcome, reply, sendErr)
	if outcome == Accepted || mine && (outcome == Rejected || t.panicked) {
		return nil
	}
	return river.JobSnooze(backoff)
}

// outcome asks, in this order: was it accepted? did the sender classify it? was
// it handed over? Whatever a sender says, without a handover nothing can be
// accepted or unknown; after one, an error that nobody classified is unknown.
func (t *try) outcome(sendErr error) Outcome {
	outcome := OutcomeOf(sendErr)
	_, classified := errors.AsType[*SendError](sendErr)
	switch {
	case !t.handedOver && outcome != Rejected:
		return Deferred
	case t.handedOver && outcome == Deferred && !classified:
		return Unknown
	default:
		return outcome
	}
}

// record writes the outcome. mine says whether the job was still in hand and the
// message went with it; if not, only the fact is recorded, which for an accepted
// message includes its status.
//
// The attempt's row may be there (handed over), may not be there (failed before)
// or nobody may know (the handover's answer was lost): one statement for all.
func (t *try) record(ctx context.Context, outcome Outcome, reply Reply, sendErr error, backoff time.Duration) (mine bool, err error) {
	verdict := string(outcome)
	if t.panicked && outcome == Deferred {
		verdict = "poison"
	}
	text := cmp.Or(reply.Text, cause(sendErr))
	batch := &pgx.Batch{}
	batch.Queue(durable)
	batch.Queue(`
		UPDATE mailcrane.message AS m
		SET status = CASE $2 WHEN 'accepted' THEN 'sent' WHEN 'poison' THEN 'held' ELSE 'failed' END,
		    reason = CASE WHEN $2 <> 'accepted' THEN $3 END,
		    held_by = CASE $2 WHEN 'poison' THEN $2 END,
		    finished_at = CASE WHEN $2 <> 'poison' THEN now() END
		WHERE m.id = $1
		  AND ($2 = 'accepted' AND m.status <> 'sent'
		    OR $2 IN ('rejected', 'poison') AND m.status = 'queued' AND EXISTS (
			SELECT FROM mailcrane.river_job AS j
			WHERE j.id = $4
			  AND j.state = 'running'
			  AND j.attempt = $5
			  AND j.attempted_by[array_upper(j.attempted_by, 1)] = $6))`,
		t.messageID, verdict, reply.reason(text), t.job, t.jobAttempt, t.relay.instance.id)
	batch.Queue(`
		INSERT INTO mailcrane.attempt AS a (
			message_id, number, job_id, instance_id, outcome, was_unknown, relay, code, enhanced_code, reply, began_at, finished_at)
		VALUES ($1, $2, $3, $4, $5, $5 = 'unknown', $6, $7, $8, $9, now() - $10::interval, now())
		ON CONFLICT (message_id, number) DO UPDATE
		SET outcome = excluded.outcome,
		    was_unknown = a.was_unknown OR excluded.was_unknown,
		    relay = coalesce(excluded.relay, a.relay),
		    code = excluded.code,
		    enhanced_code = excluded.enhanced_code,
		    reply = excluded.reply,
		    finished_at = excluded.finished_at
		WHERE a.job_id = $3
		  AND a.instance_id = $4
		  AND (a.outcome IS NULL OR a.outcome = 'unknown')`,
		t.messageID, t.message.Attempt, t.job, t.relay.instance.id, string(outcome),
		optional(reply.Relay), optional(reply.Code), optional(reply.Enhanced), text, time.Since(t.began))
	end, argument := completeJob, any(t.messageID)
	if verdict == string(Deferred) || outcome == Unknown {
		end, argument = giveBackJob, backoff
	}
	batch.Queue(end, t.job, t.jobAttempt, t.relay.instance.id, argument).Exec(func(tag pgconn.CommandTag) error {
		mine = tag.RowsAffected() == 1
		return nil
	})
	return mine, t.relay.Pool.SendBatch(ctx, batch).Close()
}

// cause is an error in words, without the outcome, which has a column of its own.
func cause(sendErr error) string {
	if classified, ok := errors.AsType[*SendError](sendErr); ok {
		sendErr = classified.Err
	}
	if sendErr == nil {
		return ""
	}
	return sendErr.Error()
}

// reason is the reply as one line for people: "550 5.1.1 no such user", or text
// where the next hop did not speak.
func (r Reply) reason(text string) string {
	if r.Code == 0 {
		return text
	}
	return strings.Join(strings.Fields(fmt.Sprint(r.Code, " ", r.Enhanced, " ", text)), " ")
}

// optional makes the zero value NULL.
func optional[T comparable](v T) *T {
	if v == *new(T) {
		return nil
	}
	return &v
}
