//go:build unix

package bench

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// Messages by the million are put into the tables as the write path and a daemon
// would leave them, but by one statement for many.

const (
	seedSize     = 50_000 // messages in a statement
	seeders      = 2
	firstOfThose = 1_000_000_000 // recipients of finished messages have numbers from here
)

// rowsSQL makes the ids of messages from $1 to $2, and spreads their times over
// the seconds $4 before now, in which there are $3 of them.
const rowsSQL = `
	WITH row AS MATERIALIZED (
		SELECT n, mailcrane.uuid_v7() AS invitation_id, mailcrane.uuid_v7() AS message_id,
		       nextval('mailcrane.river_job_id_seq') AS job_id, 'u' || n || '@bench.example' AS email,
		       now() - make_interval(secs => $4::float8 * (1 - (n - $5::bigint)::float8 / $3::float8)) AS at
		FROM generate_series($1::bigint, $2::bigint) AS n
	), invitation AS (
		INSERT INTO mailcrane.invitation (id, group_id, group_name, email, inviter_id, inviter_name, created_at, expires_at)
		SELECT r.invitation_id, 'g' || r.n / 100, 'Analytical Engine Club', r.email, '1', 'Charles', r.at, r.at + interval '7 days'
		FROM row AS r
	)`

const waitingSQL = rowsSQL + `, message AS (
		INSERT INTO mailcrane.message (id, invitation_id, recipient, template, job_id, created_at, expires_at)
		SELECT r.message_id, r.invitation_id, r.email, 'invitation', r.job_id, r.at, r.at + interval '7 days'
		FROM row AS r
	)
	INSERT INTO mailcrane.river_job (id, args, kind, max_attempts, priority, queue, created_at, scheduled_at, state, tags)
	SELECT r.job_id, jsonb_build_object('message_id', r.message_id), 'deliver', 32767, 2, 'default', r.at, r.at, 'available', '{}'
	FROM row AS r`

const finishedSQL = rowsSQL + `, message AS (
		INSERT INTO mailcrane.message (
			id, invitation_id, recipient, template, job_id, created_at, expires_at, status, finished_at)
		SELECT r.message_id, r.invitation_id, r.email, 'invitation', r.job_id, r.at, r.at + interval '7 days', 'sent',
		       r.at + interval '100 milliseconds'
		FROM row AS r
	), attempt AS (
		INSERT INTO mailcrane.attempt (
			message_id, number, job_id, instance_id, outcome, relay, code, reply, began_at, finished_at, header_message_id, token_hash)
		SELECT r.message_id, 1, r.job_id, '00000000-0000-7000-8000-000000000000', 'accepted', '127.0.0.1:25', 250, 'OK',
		       r.at + interval '50 milliseconds', r.at + interval '100 milliseconds', r.message_id || '@example.com', sha256(uuid_send(r.message_id))
		FROM row AS r
	)
	INSERT INTO mailcrane.river_job (
		id, args, kind, max_attempts, priority, queue, created_at, scheduled_at, state, tags, attempt, attempted_at, attempted_by, finalized_at)
	SELECT r.job_id, jsonb_build_object('message_id', r.message_id), 'deliver', 32767, 2, 'default', r.at, r.at, 'completed', '{}',
	       1, r.at + interval '10 milliseconds', ARRAY['00000000-0000-7000-8000-000000000000'], r.at + interval '100 milliseconds'
	FROM row AS r`

// pile makes the messages that are finished, those that wait, and among these
// those whose sending is measured. Vacuum has seen them all.
func (s *stage) pile(ctx context.Context) error {
	rebuild, err := s.dropIndexes(ctx)
	if err != nil {
		return err
	}
	if err := s.seed(ctx, "finished", finishedSQL, firstOfThose, s.Finished, 30*time.Minute); err != nil { // the queue forgets after an hour
		return err
	}
	if err := s.seed(ctx, "waiting", waitingSQL, 1, s.Messages+s.Waiting, time.Minute); err != nil {
		return err
	}
	if err := rebuild(ctx); err != nil {
		return err
	}
	if _, err := s.pool.Exec(ctx, `VACUUM (ANALYZE) mailcrane.invitation, mailcrane.message, mailcrane.attempt, mailcrane.river_job`); err != nil {
		return err
	}
	return s.checkpoint(ctx)
}

// dropIndexes takes away those that no constraint needs: building them at the end
// takes a fraction of the time. In a database that is not ours they stay, because
// a run that is cut off would leave it without.
func (s *stage) dropIndexes(ctx context.Context) (rebuild func(context.Context) error, err error) {
	if s.server == nil {
		return func(context.Context) error { return nil }, nil
	}
	rows, err := s.pool.Query(ctx, `
		SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
		FROM pg_index AS i
		WHERE i.indrelid IN (
			'mailcrane.invitation'::regclass, 'mailcrane.message'::regclass, 'mailcrane.attempt'::regclass, 'mailcrane.river_job'::regclass)
		  AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)`)
	if err != nil {
		return nil, err
	}
	type index struct{ Name, Definition string }
	indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[index])
	if err != nil {
		return nil, err
	}
	for _, i := range indexes {
		if _, err := s.pool.Exec(ctx, `DROP INDEX `+i.Name); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) error {
		s.say("building %d indexes", len(indexes))
		statements := []string{`SET maintenance_work_mem = '256MB'`}
		for _, i := range indexes {
			statements = append(statements, i.Definition)
		}
		_, err := s.pool.Exec(ctx, strings.Join(append(statements, `RESET maintenance_work_mem`), ";\n"))
		return err
	}, nil
}

// seed runs the statement for n messages, of which the first has this number.
func (s *stage) seed(ctx context.Context, what, statement string, first, n int, over time.Duration) error {
	if n == 0 {
		return nil
	}
	s.say("making %d messages that are %s", n, what)
	began := time.Now()
	var (
		next    atomic.Int64
		working sync.WaitGroup
		failed  = make([]error, seeders)
	)
	for i := range seeders {
		working.Go(func() {
			failed[i] = s.seedSome(ctx, func(conn *pgx.Conn) (more bool, err error) {
				from := int(next.Add(seedSize) - seedSize)
				if from >= n {
					return false, nil
				}
				to := min(from+seedSize, n)
				_, err = conn.Exec(ctx, statement, first+from, first+to-1, n, over.Seconds(), first)
				return true, err
			})
		})
	}
	working.Wait()
	if err := firstReal(failed); err != nil {
		return fmt.Errorf("make messages that are %s: %w", what, err)
	}
	s.say("made %d in %.0f s", n, time.Since(began).Seconds())
	return nil
}

// seedSome calls one until there is no more to do. References are not checked,
// if the database's user may say so: they are right, and that takes as long as
// all the rest.
func (s *stage) seedSome(ctx context.Context, one func(*pgx.Conn) (more bool, err error)) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `SET session_replication_role = replica`); err == nil {
		defer conn.Exec(context.WithoutCancel(ctx), `RESET session_replication_role`) //nolint:errcheck // nothing more is written on it
	}
	for {
		if more, err := one(conn.Conn()); err != nil || !more {
			return err
		}
	}
}
