package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/riverqueue/river"
)

// deliverWorker carries out one job: open, send, close.
//
// It returns nil only when the message is finished and the job completed, or
// needs no more work, because River marks the job of a nil completed whoever
// runs it by then. Everything else is a snooze, which at worst wakes a job once
// too often.
type deliverWorker struct {
	river.WorkerDefaults[deliverArgs]
	relay *Relay
}

// Work implements river.Worker.
func (w *deliverWorker) Work(ctx context.Context, job *river.Job[deliverArgs]) error {
	r := w.relay
	t := &try{relay: r, job: job.ID, jobAttempt: job.Attempt, messageID: job.Args.MessageID}
	next, err := t.open(ctx)
	if err != nil {
		return fmt.Errorf("open attempt on message %s: %w", t.messageID, err)
	}
	if !next.goesOn() {
		return next.asJobResult()
	}
	reply, sendErr := t.send()
	if t.putBack(sendErr) {
		return river.JobSnooze(0)
	}
	return t.close(reply, sendErr)
}

// try is one attempt on one message: what the job brought, what open loaded and
// how far it went.
type try struct {
	relay      *Relay
	job        int64 // id of the River job that brought it
	jobAttempt int   // that job's own count, which River may give back
	messageID  string
	message    *Message
	noLink     bool   // an invitation that nobody can accept
	tokenHash  []byte // of the token in the link, if we made one
	began      time.Time

	handoverBegun bool // the open attempt may be in the database
	handedOver    bool // past the point of no return: from here on, no answer means unknown
}

// send gives the message to its sender. Until the handover it ends when the
// relay stops; a panic in a sender is an error like any other.
func (t *try) send() (reply Reply, err error) {
	defer func() {
		if p := recover(); p != nil {
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
	return sender.Send(t.relay.stopping, t.message, t.handover)
}

// putBack says whether the relay stopped before anything was handed over: that
// is no attempt, and leaves no trace.
func (t *try) putBack(sendErr error) bool {
	return sendErr != nil && !t.handoverBegun && t.relay.stopping.Err() != nil && OutcomeOf(sendErr) == Deferred
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
		slog.Float64("took_ms", float64(time.Since(t.began).Microseconds())/1000),
	}
	if err != nil {
		attributes = append(attributes, slog.String("error", err.Error()))
	}
	t.relay.Logger.LogAttrs(context.Background(), level, "attempt finished", attributes...)
}

// errLostRight means that the attempt may not go on, and that nothing was
// written: the message, the job or the lease has passed to somebody else.
var errLostRight = errors.New("no longer entitled to send this message")
