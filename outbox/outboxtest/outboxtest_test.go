package outboxtest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

func TestDatabase_isEachTestsOwn(t *testing.T) {
	t.Parallel()
	one, two := outboxtest.Database(t), outboxtest.Database(t)
	if _, err := outbox.Invite(t.Context(), one, outbox.Invitation{GroupID: "g", Email: "ada@example.com"}); err != nil {
		t.Fatal(err)
	}
	if m := outboxtest.RequireQueued(t, one, "ada@example.com", "invitation"); m.Template != "invitation" {
		t.Errorf("got %+v", m)
	}
	outboxtest.RequireNoneQueued(t, one, "grace@example.com")
	outboxtest.RequireNoneQueued(t, two, "")
}

// deputy records whether a helper failed the test.
type deputy struct {
	testing.TB
	failed string
}

func (d *deputy) Helper() {}
func (d *deputy) Fatalf(format string, args ...any) {
	d.failed = fmt.Sprintf(format, args...)
	panic(d)
}

func failure(check func(tb testing.TB)) (text string) {
	d := &deputy{}
	defer func() {
		if r := recover(); r != nil && r != any(d) {
			panic(r)
		}
		text = d.failed
	}()
	check(d)
	return ""
}

func TestRequire_failsWhenItShould(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	if failure(func(tb testing.TB) { outboxtest.RequireQueued(tb, pool, "ada@example.com", "invitation") }) == "" {
		t.Error("RequireQueued is content with nothing")
	}
	for _, group := range []string{"g", "h"} {
		if _, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: group, Email: "ada@example.com"}); err != nil {
			t.Fatal(err)
		}
	}
	for what, check := range map[string]func(testing.TB){
		"two of them":        func(tb testing.TB) { outboxtest.RequireQueued(tb, pool, "ada@example.com", "invitation") },
		"another template":   func(tb testing.TB) { outboxtest.RequireQueued(tb, pool, "ada@example.com", "verify") },
		"none for her":       func(tb testing.TB) { outboxtest.RequireNoneQueued(tb, pool, "Ada@example.com") },
		"none for everybody": func(tb testing.TB) { outboxtest.RequireNoneQueued(tb, pool, "") },
	} {
		if failure(check) == "" {
			t.Errorf("%s: it did not fail", what)
		}
	}
}

func TestRecorder_recordsWhatWasHandedOverWhateverTheAnswer(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	recorder := &outboxtest.Recorder{Answer: func(m *outbox.Message) (outbox.Reply, error) {
		if m.Attempt == 1 {
			return outbox.Reply{}, &outbox.SendError{Outcome: outbox.Unknown, Err: errors.New("the line went dead")}
		}
		return outbox.Reply{Relay: "recorder", Code: 250}, nil
	}}
	relay, err := outbox.NewRelay(outbox.RelayConfig{Pool: pool, Senders: map[string]outbox.Sender{"email": recorder}, AllowUnsafe: true, RetryMin: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := relay.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = relay.Stop(context.Background()) })
	if _, err := outbox.Enqueue(t.Context(), pool, outbox.Draft{Recipient: "ada@example.com", Template: "verify"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	messages, err := recorder.Wait(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	if one, two := messages[0], messages[1]; one.HeaderMessageID != two.HeaderMessageID || two.Attempt != 2 {
		t.Errorf("got %+v and %+v", one, two)
	}
}

func TestRecorder_recordsWhatItDoesNotFail(t *testing.T) {
	t.Parallel()
	recorder := &outboxtest.Recorder{Fail: func(m *outbox.Message) error {
		if m.Recipient == "bad@example.com" {
			return &outbox.SendError{Outcome: outbox.Rejected, Err: errors.New("bad")}
		}
		return nil
	}}
	handover := func(context.Context, string) error { return nil }
	go func() {
		for _, recipient := range []string{"bad@example.com", "a@example.com", "b@example.com"} {
			_, err := recorder.Send(context.Background(), &outbox.Message{Recipient: recipient}, handover)
			if (err != nil) != (recipient == "bad@example.com") {
				t.Error(recipient, err)
			}
		}
	}()
	messages, err := recorder.Wait(t.Context(), 2)
	if err != nil || len(messages) != 2 || messages[1].Recipient != "b@example.com" {
		t.Errorf("%v, %v", messages, err)
	}
	lost := errors.New("no right to send")
	if _, err := recorder.Send(t.Context(), &outbox.Message{}, func(context.Context, string) error { return lost }); !errors.Is(err, lost) {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if messages, err := recorder.Wait(ctx, 3); err == nil || len(messages) != 2 {
		t.Errorf("%v, %v", messages, err)
	}
}
