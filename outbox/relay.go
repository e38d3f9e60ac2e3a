package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// RelayConfig says how a [Relay] works. Pool and Senders are required.
type RelayConfig struct {
	Pool    *pgxpool.Pool     // the relay opens three more connections like those, for its upkeep
	Senders map[string]Sender // by channel
	Logger  *slog.Logger      // default: discard
	Name    string            // of this daemon, for people; default "relay"
	Version string            // of this program, for people

	Workers  int  // messages in hand at a time, most of which wait for a connection; default 450
	PollOnly bool // do not LISTEN, as behind a pooler in transaction mode

	RetryMin time.Duration // wait after the first deferred attempt; default 30 s
	RetryMax time.Duration // longest wait between attempts; default 2 h

	// AcceptURL is the web address that an invitation without a link of its own
	// points to; "{token}" in it becomes a token made with Secret. Without both,
	// such invitations wait.
	AcceptURL string
	Secret    []byte

	// MessageIDDomain is what stands after the @ in Message-ID header fields
	// (RFC 5322 section 3.6.4); default "localhost".
	MessageIDDomain string

	// Installation names the installation whose database this is. A relay of
	// another one sends nothing, so that a copy of the database does not mail the
	// same people; see the SQL function mailcrane.adopt.
	Installation string

	// AllowUnsafe accepts a database that runs with fsync off, which may forget
	// after a crash what was sent: for tests.
	AllowUnsafe bool

	// SnapshotAlarm is the age at which a transaction anywhere in the database is
	// reported in the log: while it lasts PostgreSQL keeps every job that is done,
	// and each fetch steps over them. If it has written, in any database of the server,
	// that is reported too: nobody reads the events of later ones. Default 5 min.
	SnapshotAlarm time.Duration

	Heartbeat time.Duration // how often this daemon proves that it lives; default Lease / 5
	Lease     time.Duration // how long each proof counts; default 10 s
}

func (c RelayConfig) withDefaults() RelayConfig {
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	c.Name = cmp.Or(c.Name, "relay")
	c.Version = cmp.Or(c.Version, "unknown")
	c.Workers = cmp.Or(c.Workers, 450)
	c.RetryMin = cmp.Or(c.RetryMin, 30*time.Second)
	c.RetryMax = cmp.Or(c.RetryMax, 2*time.Hour)
	c.MessageIDDomain = cmp.Or(c.MessageIDDomain, "localhost")
	c.SnapshotAlarm = cmp.Or(c.SnapshotAlarm, 5*time.Minute)
	c.Lease = cmp.Or(c.Lease, 10*time.Second)
	c.Heartbeat = cmp.Or(c.Heartbeat, c.Lease/5)
	return c
}

// Relay moves committed messages: a pool of River workers that give each message
// to the [Sender] of its channel and record what became of it.
type Relay struct {
	RelayConfig
	instance   *instance
	claims     claims
	inHand     inHand
	settled    *settled
	groups     groups
	alone      chan struct{} // who writes alone puts one in, so that they do not take all connections
	unrecorded atomic.Int32  // outcomes that the database did not take yet
	sessions   sessions      // of the upkeep

	// stopping ends when Stop begins: messages not yet handed over are put
	// back. abandoned ends when Stop's patience does.
	stopping, abandoned context.Context //nolint:containedctx // they are the relay's own life, not a caller's
	stop, abandon       context.CancelFunc
	background          sync.WaitGroup
}

// NewRelay prepares a relay. It does nothing before [Relay.Start].
func NewRelay(config RelayConfig) (*Relay, error) {
	if config.Pool == nil || len(config.Senders) == 0 {
		return nil, errors.New("new relay: a pool and at least one sender are required")
	}
	r := &Relay{RelayConfig: config.withDefaults()}
	r.stopping, r.stop = context.WithCancel(context.Background())
	r.abandoned, r.abandon = context.WithCancel(context.Background())
	r.groups = r.newGroups()
	r.settled = newSettled()
	r.alone = make(chan struct{}, 4)
	return r, nil
}

// deliverArgs are the arguments of the one kind of job there is. They name the
// message and nothing else, so that no address is ever in the queue.
type deliverArgs struct {
	MessageID string `json:"message_id"`
}

func (deliverArgs) Kind() string { return "deliver" }

// River is the scheduler only: when to give up, and what is true about a
// message, is decided and recorded in our own tables.
func (r *Relay) newClient() (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, &deliverWorker{relay: r}); err != nil {
		return nil, err
	}
	poll := 250 * time.Millisecond // between notifications, which not every commit sends
	if r.PollOnly {
		poll = 40 * time.Millisecond
	}
	return river.NewClient(newDriver(r.Pool, r.settled), &river.Config{
		ID:                   r.instance.id,
		Schema:               "mailcrane",
		Queues:               map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: r.Workers}},
		Workers:              workers,
		Logger:               slog.New(&quietHandler{r.Logger.Handler()}),
		FetchCooldown:        5 * time.Millisecond,
		FetchPollInterval:    poll,
		PollOnly:             r.PollOnly,
		FetchOnlyKnownKinds:  true,           // a newer daemon's kinds wait for it
		JobTimeout:           -1,             // every step has its own limit
		RescueStuckJobsAfter: 24 * time.Hour, // a net below our own reaper

		// A job that is done says nothing that its message does not.
		CompletedJobRetentionPeriod: time.Hour,
		CancelledJobRetentionPeriod: time.Hour,

		RetryPolicy:       retrySoon{},
		ReindexerSchedule: river.NeverSchedule(), // may leave invalid indexes behind
	})
}

// retrySoon is for jobs that ended in an error of ours, such as a database that
// went away before the message could be loaded. Nothing was sent.
type retrySoon struct{}

func (retrySoon) NextRetry(*rivertype.JobRow) time.Time {
	return time.Now().Add(time.Second + rand.N(2*time.Second))
}

// Start registers this daemon as a live instance and begins to work until
// [Relay.Stop]. The schema must be there. A relay is started once.
//
// It refuses a database with fsync off, or whose clock differs from ours by more
// than two seconds. While a hold covers everything, or the database is a copy that
// nobody has adopted, it starts and waits; [Relay.Ready] says for what.
func (r *Relay) Start(ctx context.Context) error {
	i, err := register(ctx, r.RelayConfig)
	if err != nil {
		return fmt.Errorf("start relay: %w", err)
	}
	r.instance = i
	if err := r.mayClaim(); err == nil {
		err = r.claim()
		if err != nil {
			return fmt.Errorf("start relay: %w", errors.Join(err, i.deregister(ctx)))
		}
	}
	if err := r.openSessions(ctx); err != nil {
		return fmt.Errorf("start relay: %w", errors.Join(err, i.deregister(ctx)))
	}
	life, end := context.WithCancel(context.Background())
	r.background.Go(func() { i.keepAlive(life) })
	r.background.Go(func() { r.upkeep(life) })
	r.background.Go(func() { r.watchSnapshots(life) })
	r.background.Go(func() { r.watchEvents(life) })
	r.background.Go(func() { r.tendInvitations(life) })
	r.background.Go(func() { r.findCrowd(life) })
	r.background.Go(func() { r.letThrough(life) })
	r.background.Go(func() { r.tellWebhooks(life) })
	r.background.Go(func() { // life ends after the last worker
		r.supervise()
		end()
	})
	return nil
}

// Stop ends the relay: no message is fetched any more, those not yet handed over
// go back to the queue, and those that were are waited for until the next hop
// has answered. When ctx ends first, what is still open becomes unknown.
func (r *Relay) Stop(ctx context.Context) error {
	if r.instance == nil {
		return nil
	}
	r.stop()
	defer r.abandon()
	ended := make(chan struct{})
	go func() {
		r.background.Wait()
		r.sessions.close()
		close(ended)
	}()
	select {
	case <-ended:
		r.groups.log(r.Logger)
		return r.instance.deregister(ctx)
	case <-ctx.Done():
		r.abandon()
		return fmt.Errorf("stop relay: %w", errors.Join(ctx.Err(), r.claims.cancel(context.WithoutCancel(ctx))))
	}
}

// Ready says whether this relay may send: it is started, its lease is fresh, and
// nothing holds it back.
func (r *Relay) Ready() error {
	if r.instance == nil {
		return errors.New("relay: not started")
	}
	return r.mayClaim()
}

// backoff is the wait after the given number of attempts: doubling from RetryMin
// to RetryMax, give or take a fifth so that messages deferred together do not
// come back together.
func (c RelayConfig) backoff(attempts int) time.Duration {
	wait := min(c.RetryMin, c.RetryMax)
	for i := 1; i < attempts && wait < c.RetryMax; i++ {
		wait = min(2*wait, c.RetryMax)
	}
	return wait*4/5 + rand.N(wait*2/5+1)
}
