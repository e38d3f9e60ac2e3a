//go:build unix

package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/mailcrane/mailcrane/outbox"
)

// fate is what a writer knows of a letter.
type fate int

const (
	doubtful   fate = iota // no answer to the commit came, or it need not be true: the database decides
	committed              // it must be sent
	rolledBack             // it must not be sent
)

// letter is a message that a writer wanted to write.
type letter struct {
	recipient string
	fate      fate
	fails     bool // as it should
	hold      bool // its tenant has the policy hold
}

// habits are how the writers of a round write. The zero value is what most
// rounds do.
type habits struct {
	http   bool     // all letters through the HTTP API, not one in eight
	burst  bool     // as fast as they can
	loose  bool     // with synchronous_commit off
	tenant []string // in turn; default "default"
}

// writers write the letters of a round.
type writers struct {
	stage  *stage
	habits habits
	prefix string // of the recipients
	random *rand.Rand

	mu      sync.Mutex
	letters []*letter
	number  int
	meant   int // not to be rolled back
}

const (
	writing       = 4 // at a time
	rolledBackOf  = 100
	rolledBackAre = 30
	trickle       = 5 // letters a second while a fault takes longer than the letters
)

// write writes n letters that are not rolled back, and then some until enough is
// closed.
func (w *writers) write(ctx context.Context, n int, enough <-chan struct{}) error {
	limiter := rate.NewLimiter(rate.Limit(w.stage.Rate), 1)
	if w.habits.burst {
		limiter.SetLimit(rate.Inf)
	}
	var running sync.WaitGroup
	failed := make(chan error, writing)
	for range writing {
		running.Go(func() {
			for {
				number, meant, plan := w.next()
				if meant == n {
					limiter.SetLimit(trickle)
				}
				if meant >= n && isClosed(enough) {
					return
				}
				if limiter.Wait(ctx) != nil {
					return
				}
				if err := w.letter(ctx, number, plan); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	running.Wait()
	close(failed)
	return <-failed
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// plan is what chance has in store for a letter.
type plan struct{ rollback, savepoint, http bool }

func (w *writers) next() (number, meant int, p plan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.number++
	p.rollback = w.random.IntN(rolledBackOf) < rolledBackAre
	p.savepoint = w.random.IntN(5) == 0
	p.http = w.random.IntN(8) == 0
	if !p.rollback {
		w.meant++
	}
	return w.number, w.meant - 1, p
}

func (w *writers) add(recipient string, f fate) *letter {
	l := &letter{recipient: recipient, fate: f}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.letters = append(w.letters, l)
	return l
}

func (w *writers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.letters)
}

func (w *writers) settle(l *letter, f fate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l.fate = f
}

// letter writes one, again and again until it is known what became of it, or
// until it cannot be.
func (w *writers) letter(ctx context.Context, number int, p plan) error {
	name := fmt.Sprintf("%s%06d", w.prefix, number)
	inv := outbox.Invitation{GroupID: "torture", GroupName: "Torture", Email: name + "@torture.example"}
	if len(w.habits.tenant) > 0 {
		inv.Tenant = w.habits.tenant[number%len(w.habits.tenant)]
	}
	if w.habits.http || p.http && !p.rollback && inv.Tenant == "" && !w.habits.loose {
		l := w.add(inv.Email, doubtful)
		if w.post(ctx, inv) {
			w.settle(l, committed)
		}
		return nil
	}
	for {
		answered, err := w.transact(ctx, inv, p)
		if err == nil || answered {
			return err
		}
		select { // nothing was written: the database is not there
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

// transact is a transaction of an application. answered says that it came to its
// commit or roll-back, whatever came of that.
func (w *writers) transact(ctx context.Context, inv outbox.Invitation, p plan) (answered bool, err error) {
	tx, err := w.stage.pool.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if w.habits.loose {
		if _, err := tx.Exec(ctx, `SET LOCAL synchronous_commit = off`); err != nil {
			return false, err
		}
	}
	if p.savepoint {
		inner, err := tx.Begin(ctx)
		if err != nil {
			return false, err
		}
		other := inv
		other.Email = "savepoint-" + inv.Email
		if _, err := outbox.Invite(ctx, inner, other); err != nil {
			return false, err
		}
		w.add(other.Email, rolledBack)
		if err := inner.Rollback(ctx); err != nil {
			return false, err
		}
	}
	if _, err := outbox.Invite(ctx, tx, inv); err != nil {
		return false, err
	}
	if p.rollback {
		w.add(inv.Email, rolledBack)
		_ = tx.Rollback(ctx) // without an answer it is rolled back too
		return true, nil
	}
	l := w.add(inv.Email, doubtful)
	l.hold = inv.Tenant == holdTenant
	if err := tx.Commit(ctx); err == nil && !w.habits.loose {
		w.settle(l, committed)
	}
	return true, nil
}

// post repeats a request with its key until it is answered.
func (w *writers) post(ctx context.Context, inv outbox.Invitation) bool {
	body, err := json.Marshal(map[string]string{"email": inv.Email, "group_name": inv.GroupName})
	if err != nil {
		return false
	}
	for ctx.Err() == nil {
		if w.request(ctx, inv.Email, body) {
			return true
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return false
}

func (w *writers) request(ctx context.Context, key string, body []byte) (ok bool) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	response, err := w.send(ctx, key, bytes.NewReader(body))
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err == nil && response.Body.Close() == nil && response.StatusCode/100 == 2
}

func (w *writers) send(ctx context.Context, key string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.stage.web.listen+"/v1/groups/torture/invitations", body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", key)
	return http.DefaultClient.Do(request)
}
