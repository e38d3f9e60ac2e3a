package outbox

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// sessions are connections that do nothing but upkeep, over and over. Whatever a
// session does for the first time has to be planned, which costs more than the upkeep
// itself; and of a pool that all share each connection would come to that in turn,
// while mails wait for a processor.
type sessions struct {
	prompt  session // what takes no time, and must not wait
	lengthy session // what may take its time
	patient session // what may have to wait for others' locks
}

// session is one connection, opened anew whenever it breaks, for one statement at a
// time. Each has a limit, as others wait for it: a server that goes silent without
// hanging up would keep them waiting for ever.
type session struct {
	pool  *pgxpool.Pool
	limit time.Duration
}

func (r *Relay) openSessions(ctx context.Context) (err error) {
	r.sessions = sessions{
		prompt:  session{limit: r.Lease},
		lengthy: session{limit: longest},
		patient: session{limit: 10 * longest},
	}
	config := r.Pool.Config()
	config.MaxConns, config.MinConns, config.MinIdleConns = 1, 0, 0
	for _, s := range r.sessions.all() {
		if s.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
			r.sessions.close()
			return err
		}
	}
	return nil
}

func (s *sessions) all() []*session {
	return []*session{&s.prompt, &s.lengthy, &s.patient}
}

// close waits for all at once: pgx waits for the goodbye of a server that went silent.
func (s *sessions) close() {
	var closing sync.WaitGroup
	for _, session := range s.all() {
		if session.pool != nil {
			closing.Go(session.pool.Close)
		}
	}
	closing.Wait()
}

// exec says how many rows a statement changed.
func (s session) exec(ctx context.Context, statement string, args ...any) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	tag, err := s.pool.Exec(ctx, statement, args...)
	return tag.RowsAffected(), err
}

// ask gives the rows of a statement.
func ask[T any](ctx context.Context, s session, scan pgx.RowToFunc[T], statement string, args ...any) ([]T, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	return query(ctx, s.pool, scan, statement, args...)
}

// askOne gives the only row of a statement, or [pgx.ErrNoRows].
func askOne[T any](ctx context.Context, s session, scan pgx.RowToFunc[T], statement string, args ...any) (one T, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	rows, err := s.pool.Query(ctx, statement, args...)
	if err != nil {
		return one, err
	}
	return pgx.CollectExactlyOneRow(rows, scan)
}

// upkeep looks after the queue until ctx ends. Every daemon does it: there is no
// leader whose death one would have to wait for.
func (r *Relay) upkeep(ctx context.Context) {
	missing := map[runningJob]time.Time{}
	every(ctx, min(time.Second, r.Lease/4), func() {
		if r.instance.trusted() != nil || r.instance.copied() {
			return
		}
		r.do(ctx, "promote", r.promote)
		if r.instance.steady() {
			r.do(ctx, "reaper", r.reap)
		}
		r.do(ctx, "inventory", func(ctx context.Context) (int64, error) { return r.takeInventory(ctx, missing) })
	})
}

func (r *Relay) do(ctx context.Context, what string, work func(context.Context) (int64, error)) {
	n, err := work(ctx)
	switch {
	case err != nil && ctx.Err() == nil:
		r.Logger.Error(what+" failed", "error", err)
	case err == nil && n > 0 && what != "promote":
		r.Logger.Warn("jobs given back to the queue", "by", what, "jobs", n)
	}
}

// promote makes jobs available whose time has come.
func (r *Relay) promote(ctx context.Context) (int64, error) {
	return r.sessions.prompt.exec(ctx, `
		UPDATE mailcrane.river_job
		SET state = 'available'
		WHERE id IN (
			SELECT j.id
			FROM mailcrane.river_job AS j
			WHERE j.state IN ('scheduled', 'retryable')
			  AND j.queue = 'default'
			  AND j.priority IN (1, 2, 3, 4)
			  AND j.scheduled_at <= now()
			  AND j.kind = 'deliver'
			LIMIT 5000
			FOR UPDATE SKIP LOCKED)`)
}

// giveBackRescued makes a running job available again, and counts that.
const giveBackRescued = `
	UPDATE mailcrane.river_job AS j
	SET state = 'available',
	    scheduled_at = now(),
	    metadata = jsonb_set(j.metadata, '{rescues}', to_jsonb(coalesce((j.metadata ->> 'rescues')::integer, 0) + 1))`

// maxRescues is how often a message may be in the hands of a daemon that dies
// before it is taken for the cause.
const maxRescues = 5

// clocksAgree, with $1 for our own clock, is part of every statement that takes
// somebody for dead: a clock that jumps makes all heartbeats look old.
const clocksAgree = `clock_timestamp() BETWEEN $1::timestamptz - interval '2 seconds' AND $1::timestamptz + interval '2 seconds'`

// reap gives the running jobs of dead daemons back to the queue.
func (r *Relay) reap(ctx context.Context) (int64, error) {
	return r.sessions.prompt.exec(ctx, giveBackRescued+`
		WHERE j.id IN (
			SELECT d.id
			FROM mailcrane.river_job AS d
			WHERE d.state = 'running'
			  AND d.kind = 'deliver'
			  AND `+clocksAgree+`
			  AND NOT EXISTS (
				SELECT FROM mailcrane.instance AS n
				WHERE n.id::text = d.attempted_by[array_upper(d.attempted_by, 1)]
				  AND mailcrane.instance_is_live(n))
			LIMIT 1000
			FOR UPDATE SKIP LOCKED)`, time.Now())
}

// runningJob is one run of a job.
type runningJob struct {
	ID      int64
	Attempt int
}

// inHand are the jobs that workers of this process are at, each in one pair of
// hands.
type inHand struct {
	mu   sync.Mutex
	jobs map[int64]bool
}

// take fails if another worker has the job already.
func (h *inHand) take(job int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.jobs == nil {
		h.jobs = map[int64]bool{}
	}
	if h.jobs[job] {
		return false
	}
	h.jobs[job] = true
	return true
}

func (h *inHand) drop(job int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.jobs, job)
}

func (h *inHand) has(job int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.jobs[job]
}

// takeInventory gives back jobs that are running under our name, and that no
// worker has seen for a whole lease: the answer to the query that fetched them, or
// to the one that ended them, got lost. missing remembers since when.
func (r *Relay) takeInventory(ctx context.Context, missing map[runningJob]time.Time) (int64, error) {
	running, err := ask(ctx, r.sessions.prompt, pgx.RowToStructByPos[runningJob], `
		SELECT j.id, j.attempt
		FROM mailcrane.river_job AS j
		WHERE j.state = 'running'
		  AND j.attempted_by[array_upper(j.attempted_by, 1)] = $1`, r.instance.id)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	before := make(map[runningJob]time.Time, len(missing))
	for job, since := range missing {
		before[job] = since
	}
	clear(missing)
	var ids []int64
	var attempts []int // of each, as a worker may have the job by now that began another
	for _, job := range running {
		since, known := before[job]
		switch {
		case r.inHand.has(job.ID):
		case !known:
			missing[job] = now
		case now.Sub(since) < r.Lease:
			missing[job] = since
		default:
			ids, attempts = append(ids, job.ID), append(attempts, job.Attempt)
		}
	}
	if len(ids) == 0 {
		return 0, nil
	}
	return r.sessions.prompt.exec(ctx, giveBackRescued+`
		WHERE (j.id, j.attempt) IN (SELECT * FROM unnest($1::bigint[], $3::integer[]))
		  AND j.state = 'running'
		  AND j.attempted_by[array_upper(j.attempted_by, 1)] = $2`, ids, r.instance.id, attempts)
}

// mostAtOnce is how many invitations the upkeep changes in one transaction.
const mostAtOnce = 1000

// tendInvitations marks those as expired whose time is over, and reminds of others.
// Nothing waits for the first: whoever looks at an invitation looks at the clock too.
// It also forgets requests that nobody will repeat any more, and what need not be
// kept: see mailcrane.retention.
func (r *Relay) tendInvitations(ctx context.Context) {
	every(ctx, min(10*time.Second, r.Lease), func() {
		r.tend(ctx, "expire invitations", `SELECT mailcrane.expire_invitations($1)`)
		r.tend(ctx, "remind", `SELECT mailcrane.send_reminders($1)`)
		r.tend(ctx, "forget requests", `SELECT mailcrane.forget_requests($1)`)
		r.tend(ctx, "prune", `SELECT mailcrane.prune(5 * $1)`)
	})
}

// tellWebhooks writes messages for what has happened.
func (r *Relay) tellWebhooks(ctx context.Context) {
	if r.Senders[WebhookChannel] == nil {
		return
	}
	every(ctx, time.Second, func() {
		for more := true; more && !r.instance.copied(); {
			more = r.tellEach(ctx)
		}
	})
}

// tellEach writes messages for each webhook in a transaction of its own, so that
// none waits for what another has missed, or what goes wrong with it. It says
// whether there is more.
func (r *Relay) tellEach(ctx context.Context) (more bool) {
	ids, err := ask(ctx, r.sessions.lengthy, pgx.RowTo[string], `SELECT id::text FROM mailcrane.webhooks_behind() AS id`)
	if err != nil {
		if ctx.Err() == nil {
			r.Logger.Error("tell webhooks failed", "error", err)
		}
		return false
	}
	for _, id := range ids {
		events, err := askOne(ctx, r.sessions.lengthy, pgx.RowTo[int], `SELECT mailcrane.tell_webhook($1, $2)`, id, mostAtOnce)
		if err != nil && ctx.Err() == nil {
			r.Logger.Error("tell webhook failed", "webhook_id", id, "error", err)
		}
		more = more || events >= mostAtOnce
	}
	return more && ctx.Err() == nil
}

// findCrowd sees to it that who has much in the queue does not keep others waiting,
// from the first moment on.
func (r *Relay) findCrowd(ctx context.Context) {
	find := func() { r.share(ctx, r.sessions.prompt, `SELECT mailcrane.find_crowd()`) }
	find()
	every(ctx, 500*time.Millisecond, find)
}

// letThrough looks at the whole queue for others, which takes its time.
func (r *Relay) letThrough(ctx context.Context) {
	every(ctx, 500*time.Millisecond, func() { r.share(ctx, r.sessions.lengthy, `SELECT mailcrane.let_through()`) })
}

func (r *Relay) share(ctx context.Context, s session, statement string) {
	if r.instance.copied() {
		return
	}
	if _, err := s.exec(ctx, statement); err != nil && ctx.Err() == nil {
		r.Logger.Error("sharing the queue failed", "error", err)
	}
}

// tend runs a statement until there is nothing more to do for it.
func (r *Relay) tend(ctx context.Context, what, statement string) {
	for changed := int64(mostAtOnce); changed >= mostAtOnce && !r.instance.copied(); {
		var err error
		if changed, err = askOne(ctx, r.sessions.patient, pgx.RowTo[int64], statement, mostAtOnce); err != nil {
			if ctx.Err() == nil {
				r.Logger.Error(what+" failed", "error", err)
			}
			return
		}
	}
}

// every calls do at the given interval until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do()
		}
	}
}
