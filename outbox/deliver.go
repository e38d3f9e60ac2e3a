package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/riverqueue/river"
)

// deliverWorker carries out one job: open, send, close.
//
// It returns nil only when the message is finished and the job completed, or
// needs no more work, because River marks the job of a nil completed whoever
// runs it by then. Everything else is a snooze, which at worst wakes a job once
// too often; what matters about it has been written before, by ourselves.
type deliverWorker struct {
	river.WorkerDefaults[deliverArgs]
	relay *Relay
}

// Work implements river.Worker.
func (w *deliverWorker) Work(ctx context.Context, job *river.Job[deliverArgs]) error {
	r := w.relay
	t := &try{relay: r, claim: claim{job.ID, job.Attempt}, messageID: job.Args.MessageID, priority: job.Priority, rescues: rescuesIn(job.Metadata)}
	if !r.inHand.take(job.ID) {
		// It was reaped while our lease was over, and fetched again. Both tries would
		// have the same number, and one could close the attempt of the other.
		return t.giveBack(time.Second)
	}
	defer r.inHand.drop(job.ID)
	next, err := t.open(ctx)
	if err != nil {
		r.Logger.Error("attempt not opened, will try again", "message_id", t.messageID, "error", err)
		return t.giveBack(time.Second + rand.N(2*time.Second))
	}
	switch {
	case next.wait > 0:
		return t.giveBack(next.wait)
	case !next.goesOn():
		return nil
	}
	reply, sendErr := t.send()
	if wait, ok := t.untried(sendErr); ok {
		return t.giveBack(wait)
	}
	return t.close(reply, sendErr)
}

// rescuesIn reads how often the job was taken from a daemon that had died.
func rescuesIn(metadata []byte) int {
	var m struct {
		Rescues int `json:"rescues"`
	}
	_ = json.Unmarshal(metadata, &m) // what somebody else wrote there is none
	return m.Rescues
}

// try is one attempt on one message: what the job brought, what open loaded and
// how far it went.
type try struct {
	relay     *Relay
	claim     // on the job that brought it
	messageID string
	priority  int
	message   *Message
	rescues   int    // how often a daemon died with it in hand
	unknown   int    // outcomes behind it that are unknown
	allowed   int    // and how many of them there may be
	noLink    bool   // an invitation that nobody can accept
	tokenHash []byte // of the token in the link, if we made one
	began     time.Time

	handoverBegun bool // the open attempt may be in the database
	panicked      bool // before that, the sender did
	handedOver    bool // past the point of no return: from here on, no answer means unknown
}

// send gives the message to its sender. Until the handover it ends when the
// relay stops; a panic in a sender is an error like any other.
func (t *try) send() (reply Reply, err error) {
	defer func() {
		if p := recover(); p != nil {
			t.panicked = !t.handoverBegun
			err = fmt.Errorf("the sender panicked: %v", p)
			if t.handedOver {
				err = &SendError{Outcome: Unknown, Err: err}
			}
		}
	}()
	t.began = time.Now()
	if t.noLink {
		return Reply{}, errors.New("the invitation has no link, and no accept URL and secret are configured to make one")
	}
	sender, ok := t.relay.Senders[t.message.Channel]
	if !ok {
		return Reply{}, fmt.Errorf("no sender for the channel %q is configured", t.message.Channel)
	}
	if isTest(t.message.Tenant) && t.message.Channel != WebhookChannel {
		return Reply{Text: "test: handed to no relay"}, t.handover(t.relay.stopping, "")
	}
	return sender.Send(t.relay.stopping, t.message, t.handover)
}

// untried says whether the message comes back without an attempt on record, and
// when: nothing was handed over, because the relay stops or the sender did not try.
func (t *try) untried(sendErr error) (wait time.Duration, ok bool) {
	if sendErr == nil || t.handoverBegun || OutcomeOf(sendErr) != Deferred {
		return 0, false
	}
	if t.relay.stopping.Err() != nil {
		return 0, true
	}
	if unavailable, is := errors.AsType[*Unavailable](sendErr); is {
		t.relay.Logger.Debug("not tried", "message_id", t.messageID, "error", unavailable.Err)
		wait := max(unavailable.RetryAfter, time.Second)
		return wait + rand.N(wait/2), true
	}
	return 0, false
}

// insist repeats what has to be written until the database takes it, or until
// nobody can wait any longer; once in any case.
func (t *try) insist(until context.Context, complaint string, write func() error) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := write()
		if err == nil {
			return nil
		}
		t.relay.Logger.Error(complaint+", will try again", "message_id", t.messageID, "error", err)
		select {
		case <-time.After(pause):
		case <-until.Done():
			return err
		}
	}
}

// log reports a finished attempt, in the words of the table's columns.
func (t *try) log(outcome Outcome, reply Reply, err error) {
	level := slog.LevelInfo
	if outcome == Rejected || outcome == Unknown {
		level = slog.LevelWarn
	}
	attributes := []slog.Attr{
		slog.String("message_id", t.messageID),
		slog.String("channel", t.message.Channel),
		slog.Int("attempt", t.message.Attempt),
		slog.String("outcome", string(outcome)),
		slog.String("relay", reply.Relay),
		slog.Int("code", reply.Code),
		slog.Int64("took_ms", time.Since(t.began).Milliseconds()),
	}
	if err != nil {
		attributes = append(attributes, slog.String("error", err.Error()))
	}
	t.relay.Logger.LogAttrs(context.Background(), level, "attempt finished", attributes...)
}

// errLostRight means that the attempt may not go on, and that nothing was
// written: the message, the job or the lease has passed to somebody else.
var errLostRight = errors.New("no longer entitled to send this message")
