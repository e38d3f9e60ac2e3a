package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
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
	v := t.verdict(outcome, reply, sendErr, backoff)
	var mine bool
	failed := false
	err := t.insist(t.relay.abandoned, "outcome not recorded", func() (err error) {
		if mine, err = t.record(v); err != nil && !failed && !lockedByOthers(err) {
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
	if mine {
		t.relay.settled.add(t.job)
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

// verdict is what close writes about one message.
func (t *try) verdict(outcome Outcome, reply Reply, sendErr error, backoff time.Duration) verdict {
	text := cmp.Or(reply.Text, cause(sendErr))
	v := verdict{
		claim: t.claim, messageID: t.messageID, attempt: t.message.Attempt,
		outcome: outcome, relay: reply.Relay, code: reply.Code, enhanced: reply.Enhanced, text: text,
		took: time.Since(t.began),
	}
	switch {
	case outcome == Accepted:
		v.status = StatusSent
	case outcome == Rejected:
		v.status, v.reason = StatusFailed, reply.reason(text)
	case outcome == Deferred && t.panicked:
		v.status, v.reason, v.heldBy = StatusHeld, reply.reason(text), "poison"
	default:
		v.backoff = backoff
	}
	return v
}

// verdict is the outcome of one attempt, and what follows from it.
type verdict struct {
	claim
	messageID string
	attempt   int
	outcome   Outcome
	relay     string
	code      int
	enhanced  string
	text      string
	took      time.Duration

	status  Status // of the message, if that changes
	reason  string
	heldBy  string
	backoff time.Duration // before the next attempt, if it does not
}

// record writes the verdict, together with those of the same moment. mine says
// whether the job was still in hand and the message went with it; if not, only the
// fact is recorded, which for an accepted message includes its status.
func (t *try) record(v verdict) (mine bool, err error) {
	mine, err = t.relay.groups.close.do(context.Background(), v)
	if errors.Is(err, errAlone) {
		mine, err = byItself(t.relay, v, t.relay.recordAll)
	}
	return mine, err
}

// setStatuses also believes in the acceptance of an attempt that has lost its job.
const setStatuses = `
		UPDATE mailcrane.message AS m
		SET status = x.status,
		    reason = nullif(x.reason, ''),
		    held_by = nullif(x.held_by, ''),
		    finished_at = CASE WHEN x.status <> 'held' THEN now() END
		FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::integer[])
			AS x (id, status, reason, held_by, job_id, job_attempt)
		WHERE m.id = x.id
		  AND x.status <> ''
		  AND (x.status = 'sent' AND m.status <> 'sent'
		    OR m.status = 'queued' AND EXISTS (
			SELECT FROM mailcrane.river_job AS j
			WHERE j.id = x.job_id
			  AND (j.state = 'running') IS TRUE
			  AND j.attempt = x.job_attempt
			  AND j.attempted_by[array_upper(j.attempted_by, 1)] = $7))`

// closeAttempts finds the attempt's row (handed over), or does not (failed before),
// or nobody knew (the handover's answer was lost): one statement for all.
const closeAttempts = `
		INSERT INTO mailcrane.attempt AS a (
			message_id, number, job_id, instance_id, outcome, was_unknown, relay, code, enhanced_code, reply, began_at, finished_at)
		SELECT x.id, x.number, x.job_id, $10::uuid, x.outcome, x.outcome = 'unknown', nullif(x.relay, ''), nullif(x.code, 0),
		       nullif(x.enhanced_code, ''), x.reply, now() - x.took, now()
		FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::text[], $5::text[], $6::integer[], $7::text[], $8::text[], $9::interval[])
			AS x (id, number, job_id, outcome, relay, code, enhanced_code, reply, took)
		ON CONFLICT (message_id, number) DO UPDATE
		SET outcome = excluded.outcome,
		    was_unknown = a.was_unknown OR excluded.was_unknown,
		    relay = coalesce(excluded.relay, a.relay),
		    code = excluded.code,
		    enhanced_code = excluded.enhanced_code,
		    reply = excluded.reply,
		    finished_at = excluded.finished_at
		WHERE a.job_id = excluded.job_id
		  AND a.instance_id = excluded.instance_id
		  AND (a.outcome IS NULL OR a.outcome = 'unknown')`

// recordAll answers for each verdict whether it was about a job in hand.
func (r *Relay) recordAll(vs []verdict, alone bool) []answer[bool] {
	ctx, cancel := context.WithTimeout(r.abandoned, longest)
	defer cancel()
	ids := uuids(vs, func(v verdict) string { return v.messageID })
	jobs := column(vs, func(v verdict) int64 { return v.job })
	jobAttempts := column(vs, func(v verdict) int { return v.jobAttempt })
	batch := newTransaction(alone)
	batch.Queue(setStatuses, ids,
		column(vs, func(v verdict) string { return string(v.status) }),
		column(vs, func(v verdict) string { return v.reason }),
		column(vs, func(v verdict) string { return v.heldBy }),
		jobs, jobAttempts, r.instance.id)
	batch.Queue(closeAttempts, ids,
		column(vs, func(v verdict) int { return v.attempt }),
		jobs,
		column(vs, func(v verdict) string { return string(v.outcome) }),
		column(vs, func(v verdict) string { return v.relay }),
		column(vs, func(v verdict) int { return v.code }),
		column(vs, func(v verdict) string { return v.enhanced }),
		column(vs, func(v verdict) string { return v.text }),
		column(vs, func(v verdict) pgtype.Interval { return interval(v.took) }),
		r.instance.id)
	var mine []int64
	collect := func(rows pgx.Rows) error {
		ended, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		mine = append(mine, ended...)
		return err
	}
	batch.Queue(completeJobs, jobs, jobAttempts, r.instance.id, ids,
		column(vs, func(v verdict) bool { return v.status == StatusSent })).Query(collect)
	if back := returnings(vs); len(back) > 0 {
		queueGiveBack(batch, back, r.instance.id, collect)
	}
	if err := r.Pool.SendBatch(ctx, batch).Close(); err != nil {
		return everyone[bool](len(vs), alonePossible(err, len(vs)))
	}
	answers := make([]answer[bool], len(vs))
	for i, v := range vs {
		answers[i].out = slices.Contains(mine, v.job)
	}
	return answers
}

// returnings are the jobs whose messages will be tried again.
func returnings(vs []verdict) []returning {
	var back []returning
	for _, v := range vs {
		if v.status == "" {
			back = append(back, returning{claim: v.claim, wait: v.backoff})
		}
	}
	return back
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
