package sender

import (
	"context"
	"testing"
	"time"
)

// A slot that comes at the moment at which nobody waits for it any more is not
// lost.
func TestPool_passesOnASlotThatCameTooLate(t *testing.T) {
	t.Parallel()
	p := newPool(1, 100, time.Minute, time.Minute)
	p.giveUp(p.enqueue(&envelope{}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	s, err := p.acquire(ctx, &envelope{})
	if err != nil {
		t.Fatal(err)
	}
	late := p.enqueue(&envelope{})
	p.giveUp(late)
	s.release()
	if p.used != 0 || len(p.queue) != 0 {
		t.Errorf("%d slots are taken, %d are waited for", p.used, len(p.queue))
	}
}

// The limit grows with each message that is taken while others wait, unless the
// messages are in each other's way, and by one for twenty in any case.
func TestPool_growsWhereThatHelps(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		waiting int
		took    time.Duration // each message, after one of 10 ms
		asked   bool          // the relay asked for patience before
		limit   int           // after ten messages more
	}{
		"somebody waits":               {waiting: 30, took: 25 * time.Millisecond, limit: 15},
		"nobody waits":                 {took: 10 * time.Millisecond, limit: 4},
		"in each other's way":          {waiting: 30, took: 31 * time.Millisecond, limit: 5},
		"the relay asked for patience": {waiting: 30, took: 10 * time.Millisecond, asked: true, limit: 2},
		"two wait":                     {waiting: 2, took: 10 * time.Millisecond, limit: 6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPool(15, 100, time.Minute, time.Minute)
			if test.asked {
				p.halve(time.Now())
			}
			for range 4 {
				p.enqueue(&envelope{})
			}
			for range test.waiting {
				p.enqueue(&envelope{})
			}
			p.count(true, 10*time.Millisecond)
			for range 10 {
				p.count(true, test.took)
			}
			if p.limit != test.limit {
				t.Errorf("the limit is %d, want %d", p.limit, test.limit)
			}
		})
	}
}

// Where the relay has asked for patience a message is not offered on a connection
// that is to go, nor behind a dot that will be answered late, nor after Close.
func TestSlot_followsOnlyWhereItMay(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change  func(p *pool)
		follows bool
	}{
		"it may":                   {func(*pool) {}, true},
		"the connection is to go":  {func(p *pool) { p.halve(time.Now()) }, false},
		"the answers come late":    {func(p *pool) { p.late = true }, false},
		"the sender is closed":     {func(p *pool) { p.close() }, false},
		"it was the last envelope": {func(p *pool) { p.maxMails = 0 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPool(2, 100, time.Minute, time.Minute)
			first, second := p.enqueue(&envelope{}), p.enqueue(&envelope{})
			waits := p.enqueue(&envelope{})
			s := <-first.turn
			<-second.turn
			s.conn = &conn{since: time.Now()}
			test.change(p)
			if got := s.follow(); (got == waits.env) != test.follows {
				t.Errorf("%v follows", got)
			}
			if s.timer != nil {
				s.timer.Stop()
			}
		})
	}
}
