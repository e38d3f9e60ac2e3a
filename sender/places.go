package sender

import (
	"maps"
	"sync"
	"time"
)

// places limits how many messages are under way at the same time: to each endpoint,
// and in all. An endpoint that does not answer keeps what it has, and nothing more.
// Those for whom there is no place are told to come back as quickly as the others go.
type places struct {
	each, all int

	mu    sync.Mutex
	total int
	ends  map[string]*endpoint
}

type endpoint struct {
	taken    int
	took     time.Duration // the message that was last under way
	promised time.Time     // when the last of those sent away may come back
}

func newPlaces(each, all int) *places {
	return &places{each: each, all: all, ends: map[string]*endpoint{}}
}

// take gives a place, to be given back by leave, or tells when to come back.
func (p *places) take(name string) (leave func(), comeBack time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	began := time.Now()
	e := p.ends[name]
	if e == nil {
		maps.DeleteFunc(p.ends, func(_ string, e *endpoint) bool { return e.taken == 0 && e.promised.Before(began) })
		e = &endpoint{took: time.Second}
		p.ends[name] = e
	}
	if p.total >= p.all || e.taken >= p.each {
		e.promised, comeBack = promise(e.promised, began, time.Second, e.took/time.Duration(p.each))
		return nil, comeBack
	}
	e.taken++
	p.total++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.total--
		e.taken--
		e.took = time.Since(began)
	}, 0
}
