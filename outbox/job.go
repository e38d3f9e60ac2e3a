package outbox

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/riverqueue/river"
)

// claim is one run of a job: nobody but its owner may end it.
type claim struct {
	job        int64 // id of the River job
	jobAttempt int   // its own count, which River may give back
}

// inHandSQL says that x, a claim, is that of j, a row of the queue: running, in
// this attempt, by the daemon $3. IS TRUE keeps the planner from looking for it
// among all that run.
const inHandSQL = `
	  j.id = x.job_id
	  AND (j.state = 'running') IS TRUE
	  AND j.attempt = x.job_attempt
	  AND j.attempted_by[array_upper(j.attempted_by, 1)] = $3`

// completeJobs ends the jobs of messages that are no longer queued. Those that were
// sent certainly are not.
const completeJobs = `
	UPDATE mailcrane.river_job AS j
	SET state = 'completed', finalized_at = clock_timestamp()
	FROM unnest($1::bigint[], $2::integer[], $4::uuid[], $5::boolean[]) AS x (job_id, job_attempt, message_id, sent)
	WHERE` + inHandSQL + `
	  AND (x.sent OR NOT EXISTS (SELECT FROM mailcrane.message AS m WHERE m.id = x.message_id AND m.status = 'queued'))
	RETURNING j.id`

// giveBackJobs puts jobs back into the queue for later. Their attempts are given
// back too, as River does: its numbers are finite.
const giveBackJobs = `
	UPDATE mailcrane.river_job AS j
	SET state = CASE WHEN x.wait > interval '0' THEN 'scheduled' ELSE 'available' END::mailcrane.river_job_state,
	    scheduled_at = clock_timestamp() + x.wait,
	    attempt = greatest(j.attempt - 1, 0),
	    metadata = jsonb_set(j.metadata, '{snoozes}', to_jsonb(coalesce((j.metadata ->> 'snoozes')::integer, 0) + 1))
	FROM unnest($1::bigint[], $2::integer[], $4::interval[]) AS x (job_id, job_attempt, wait)
	WHERE` + inHandSQL + `
	RETURNING j.id`

// returning is a job that goes back into the queue.
type returning struct {
	claim
	wait time.Duration
}

func queueGiveBack(batch *pgx.Batch, jobs []returning, owner string, collect func(pgx.Rows) error) {
	batch.Queue(giveBackJobs,
		column(jobs, func(j returning) int64 { return j.job }),
		column(jobs, func(j returning) int { return j.jobAttempt }),
		owner,
		column(jobs, func(j returning) pgtype.Interval { return interval(j.wait) })).Query(collect)
}

// giveBack puts the job back into the queue, if it is still the one in hand. It
// does not leave that to River, which gives up when the database is away for long.
func (t *try) giveBack(wait time.Duration) error {
	j := returning{claim: t.claim, wait: wait}
	r := t.relay
	err := t.insist(r.stopping, "job not given back", func() error {
		_, err := r.groups.giveBack.do(context.Background(), j)
		if errors.Is(err, errAlone) {
			_, err = byItself(r, j, r.giveBackAll)
		}
		return err
	})
	if err == nil {
		r.settled.add(t.job)
	}
	return errors.Join(err, river.JobSnooze(wait))
}

func (r *Relay) giveBackAll(jobs []returning, alone bool) []answer[struct{}] {
	ctx, cancel := context.WithTimeout(r.abandoned, longest)
	defer cancel()
	batch := newTransaction(alone)
	queueGiveBack(batch, jobs, r.instance.id, func(pgx.Rows) error { return nil })
	return everyone[struct{}](len(jobs), alonePossible(r.Pool.SendBatch(ctx, batch).Close(), len(jobs)))
}
