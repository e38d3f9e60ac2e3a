package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox"
)

// kind is how messages are written.
type kind string

const (
	inviteOne  kind = "invite"      // outbox.Invite, a transaction each
	inviteEach kind = "invite_each" // outbox.Invite, 1,000 in a transaction
	inviteMany kind = "invite_many" // 1,000 in a transaction
	bareInsert kind = "bare"        // two rows into two plain tables, a transaction each
	postOne    kind = "post"        // the HTTP API
)

const manyAtOnce = 1000

// order is what producers have to do.
type order struct {
	Kind     kind          `json:"kind"`
	Tenant   string        `json:"tenant"` // default: the usual one
	Database string        `json:"database"`
	API      string        `json:"api"`      // for postOne
	Writers  int           `json:"writers"`  // at a time, with a connection each
	Messages int           `json:"messages"` // to write; 0: until the time is over
	Duration time.Duration `json:"duration"` // 0: until all are written
	Rate     float64       `json:"rate"`     // calls a second; 0: as fast as they can
	First    int           `json:"first"`    // number of the first recipient
	Each     bool          `json:"each"`     // tell when each call was done
}

// outcome is what they did.
type outcome struct {
	Messages int      `json:"messages"`
	Began    int64    `json:"began"` // in nanoseconds
	Ended    int64    `json:"ended"` // when the last call was done
	Took     Waits    `json:"took"`  // the calls; with a rate from when they should have begun
	Calls    []Commit `json:"calls,omitempty"`
}

// Commit is when a message was to be written, and when that was done.
type Commit struct {
	Number int   `json:"n"`
	Due    int64 `json:"due"`
	At     int64 `json:"at"`
}

func (o outcome) seconds() float64 { return time.Duration(o.Ended - o.Began).Seconds() }

// Produce is the process of the producers: it reads an order, says "ready" when
// all are connected, waits for a line, works, and tells the outcome.
func Produce(ctx context.Context, in io.Reader, out io.Writer) error {
	var o order
	decoder := json.NewDecoder(in)
	if err := decoder.Decode(&o); err != nil {
		return fmt.Errorf("producers: read the order: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	encoder := json.NewEncoder(out)
	done, err := o.carryOut(ctx, func() error {
		if err := encoder.Encode("ready"); err != nil {
			return err
		}
		var word string
		if err := decoder.Decode(&word); err != nil {
			return err
		}
		go func() { // whoever gave the order is gone when this ends
			_, _ = io.Copy(io.Discard, in)
			cancel()
		}()
		return nil
	})
	if err != nil {
		return err
	}
	return encoder.Encode(done)
}

// carryOut connects all writers, waits for start, and writes.
func (o order) carryOut(ctx context.Context, start func() error) (outcome, error) {
	writers := make([]writer, o.Writers)
	for i := range writers {
		w, closeWriter, err := o.newWriter(ctx)
		if err != nil {
			return outcome{}, fmt.Errorf("producers: %w", err)
		}
		defer closeWriter()
		writers[i] = w
	}
	if err := start(); err != nil {
		return outcome{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	var (
		next    atomic.Int64
		working sync.WaitGroup
		shares  = make([][]Commit, o.Writers)
		failed  = make([]error, o.Writers)
	)
	for i, w := range writers {
		working.Go(func() {
			shares[i], failed[i] = o.work(ctx, w, began, &next)
			if failed[i] != nil {
				cancel() // the others have not failed for that
			}
		})
	}
	working.Wait()
	if err := firstReal(failed); err != nil {
		return outcome{}, fmt.Errorf("producers: %w", err)
	}
	return o.sum(began, slices.Concat(shares...)), nil
}

// firstReal passes over those that were only told to stop.
func firstReal(failed []error) error {
	var told error
	for _, err := range failed {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		told = errors.Join(told, err)
	}
	return told
}

// writer writes n messages, of which the first has this number.
type writer func(ctx context.Context, first, n int) error

// work makes calls until there is nothing left to do.
func (o order) work(ctx context.Context, write writer, began time.Time, next *atomic.Int64) ([]Commit, error) {
	size := 1
	if o.atOnce() {
		size = manyAtOnce
	}
	var calls []Commit
	for {
		n := int(next.Add(1)-1) * size
		due := time.Now()
		if o.Rate > 0 {
			due = began.Add(time.Duration(float64(n) / o.Rate * float64(time.Second)))
		}
		many := size
		if o.Messages > 0 {
			many = min(size, o.Messages-n)
		}
		if many <= 0 || o.Duration > 0 && due.Sub(began) >= o.Duration {
			return calls, nil
		}
		waitUntil(due)
		if err := write(ctx, o.First+n, many); err != nil {
			return nil, err
		}
		calls = append(calls, Commit{o.First + n, due.UnixNano(), time.Now().UnixNano()})
	}
}

// atOnce says whether a call writes many.
func (o order) atOnce() bool { return o.Kind == inviteMany || o.Kind == inviteEach }

func (o order) sum(began time.Time, calls []Commit) outcome {
	done := outcome{Began: began.UnixNano(), Ended: began.UnixNano(), Messages: len(calls)}
	waits := make([]time.Duration, len(calls))
	for i, c := range calls {
		waits[i] = time.Duration(c.At - c.Due)
		done.Ended = max(done.Ended, c.At)
	}
	if o.atOnce() {
		done.Messages *= manyAtOnce
		if o.Messages > 0 {
			done.Messages = min(done.Messages, o.Messages)
		}
	}
	done.Took = waitsOf(waits)
	if o.Each {
		done.Calls = calls
	}
	return done
}

func (o order) newWriter(ctx context.Context) (w writer, closeWriter func(), err error) {
	if o.Kind == postOne {
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: time.Minute}
		post := func(ctx context.Context, first, _ int) error { return o.post(ctx, client, first) }
		return post, client.CloseIdleConnections, nil
	}
	conn, err := pgx.Connect(ctx, o.Database)
	if err != nil {
		return nil, nil, err
	}
	closeWriter = func() { _ = conn.Close(context.WithoutCancel(ctx)) } // all has been said
	writers := map[kind]writer{
		inviteOne: func(ctx context.Context, first, _ int) error {
			_, err := outbox.Invite(ctx, conn, o.invitation(first))
			return err
		},
		inviteEach: func(ctx context.Context, first, n int) error {
			return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				for i := range n {
					if _, err := outbox.Invite(ctx, tx, o.invitation(first+i)); err != nil {
						return err
					}
				}
				return nil
			})
		},
		inviteMany: func(ctx context.Context, first, n int) error {
			invitations := make([]outbox.Invitation, n)
			for i := range invitations {
				invitations[i] = o.invitation(first + i)
			}
			_, err := outbox.InviteMany(ctx, conn, invitations)
			return err
		},
		bareInsert: func(ctx context.Context, first, _ int) error { return insertBare(ctx, conn, first) },
	}
	write, rehearsed := writers[o.Kind], writers[o.Kind]
	if write == nil {
		closeWriter()
		return nil, nil, fmt.Errorf("there is no way %q to write", o.Kind)
	}
	if o.Kind == inviteEach { // whose transaction could not be taken back
		rehearsed = writers[inviteOne]
	}
	if err := rehearse(ctx, conn, rehearsed); err != nil {
		closeWriter()
		return nil, nil, err
	}
	return write, closeWriter, nil
}

// rehearse writes something and takes it back: an application's connections have
// long prepared what they use, and so have the database's processes behind them.
func rehearse(ctx context.Context, conn *pgx.Conn, write writer) error {
	if _, err := conn.Exec(ctx, `BEGIN`); err != nil {
		return err
	}
	err := write(ctx, 0, 1)
	_, rollbackErr := conn.Exec(ctx, `ROLLBACK`)
	return errors.Join(err, rollbackErr)
}

// recipient is the address that the sink reads the number out of again.
func recipient(number int) string { return fmt.Sprintf("u%d@bench.example", number) }

const groupSize = 100

func (o order) invitation(number int) outbox.Invitation {
	return outbox.Invitation{
		Tenant:  o.Tenant,
		GroupID: fmt.Sprintf("g%d", number/groupSize), GroupName: "Analytical Engine Club",
		Email: recipient(number), InviterID: "1", InviterName: "Charles",
	}
}

// post does not repeat anything: an answer other than "created" ends the run.
func (o order) post(ctx context.Context, client *http.Client, number int) error {
	inv := o.invitation(number)
	body, err := json.Marshal(map[string]string{
		"email": inv.Email, "group_name": inv.GroupName, "inviter_id": inv.InviterID, "inviter_name": inv.InviterName,
	})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, o.API+"/v1/groups/"+inv.GroupID+"/invitations", bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("POST: %s: %s", response.Status, answer)
	}
	return nil
}
