package sender

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// However many events wait for an endpoint that does not answer: it keeps a few
// workers from their mail, and other endpoints are told what has happened.
func TestWebhook_oneEndpointThatHangsKeepsAFewWorkers(t *testing.T) {
	t.Parallel()
	arrived, answer := make(chan struct{}, 100), make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hangs" {
			arrived <- struct{}{}
			<-answer
		}
	}))
	t.Cleanup(receiver.Close)
	w := hookTo(t, receiver.URL+"/hangs", nil)
	h := &handed{}
	done := make(chan error, requestsEach)
	for range requestsEach {
		go func() {
			_, err := w.Send(t.Context(), hookMessage(), h.over)
			done <- err
		}()
		<-arrived
	}
	_, err := w.Send(t.Context(), hookMessage(), h.over)
	if not, is := errors.AsType[*outbox.Unavailable](err); !is || not.RetryAfter < time.Second || h.n.Load() != requestsEach {
		t.Errorf("%v, %d handovers", err, h.n.Load())
	}
	other := hookTo(t, receiver.URL+"/answers", nil)
	other.places = w.places
	m := hookMessage()
	m.Recipient = "01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b22"
	if _, err := other.Send(t.Context(), m, h.over); err != nil {
		t.Errorf("another endpoint: %v", err)
	}
	close(answer)
	for range requestsEach {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if _, err := w.Send(t.Context(), hookMessage(), h.over); err != nil || w.places.total != 0 {
		t.Errorf("%v, %d places are taken in the end", err, w.places.total)
	}
}

// Those without a place come back as quickly as the endpoint takes messages, and not
// all together; what is over is forgotten.
func TestPlaces_promise(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPlaces(2, 3)
		leave, _ := p.take("a")
		<-time.After(4 * time.Second)
		leave() // each takes four seconds, two at a time
		a, _ := p.take("a")
		b, _ := p.take("a")
		for _, want := range []time.Duration{time.Second, 3 * time.Second, 5 * time.Second} {
			if leave, comeBack := p.take("a"); leave != nil || comeBack != want {
				t.Errorf("%s, want %s", comeBack, want)
			}
		}
		for range 1000 {
			if _, comeBack := p.take("a"); comeBack > longestPromise {
				t.Fatalf("%s", comeBack)
			}
		}
		c, _ := p.take("b")
		if leave, comeBack := p.take("c"); leave != nil || comeBack != time.Second {
			t.Errorf("a fourth in all, %s", comeBack)
		}
		a()
		b()
		c()
		<-time.After(2 * longestPromise)
		if leave, _ := p.take("d"); leave == nil || len(p.ends) != 1 || p.total != 1 {
			t.Errorf("%d endpoints are remembered, %d places taken", len(p.ends), p.total)
		}
	})
}
