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
