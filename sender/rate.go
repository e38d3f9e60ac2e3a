package sender

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/idna"
	"golang.org/x/time/rate"
)

// Rate is a number of messages in a span of time. Its zero value is no limit.
type Rate struct {
	Messages int
	Per      time.Duration // a second, a minute or an hour
}

// ParseRate reads 20 or 20/s, messages a second, 600/m, a minute, or 10000/h, an
// hour. The error does not quote what was read.
func ParseRate(text string) (Rate, error) {
	number, unit, _ := strings.Cut(text, "/")
	r := Rate{Per: map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[unit]}
	if number == text {
		r.Per = time.Second
	}
	var err error
	if r.Messages, err = strconv.Atoi(number); err != nil || r.Messages < 1 || r.Messages > 1_000_000 || r.Per == 0 {
		return Rate{}, errors.New("must be a whole number from 1 to 1000000, with /s, /m or /h behind it, such as 20/s or 600/m")
	}
	return r, nil
}

// String gives the form that [ParseRate] reads.
func (r Rate) String() string {
	if r == (Rate{}) {
		return ""
	}
	unit := map[time.Duration]string{time.Second: "s", time.Minute: "m", time.Hour: "h"}[r.Per]
	return strconv.Itoa(r.Messages) + "/" + unit
}

// every is the time between two messages.
func (r Rate) every() time.Duration { return r.Per / time.Duration(r.Messages) }

// ParseDomainRates reads a list such as "gmail.com=20, *=5/m", separated by
// commas or white space, as EmailConfig.DomainRates wants it. The error lists
// every mistake.
func ParseDomainRates(list string) (map[string]Rate, error) {
	rates := map[string]Rate{}
	var problems []error
	for _, item := range splitList(list) {
		domain, text, _ := strings.Cut(item, "=")
		r, err := ParseRate(text)
		if err != nil {
			problems = append(problems, fmt.Errorf("the rate of %q %w", domain, err))
		}
		name, err := rateDomain(domain)
		if err != nil {
			problems = append(problems, err)
		}
		if _, twice := rates[name]; twice && err == nil {
			problems = append(problems, fmt.Errorf("%q is there twice", domain))
		}
		rates[name] = r
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return rates, nil
}

// rateDomain gives the name under which the limit of a domain is found: in
// A-labels and lower case, or the asterisk.
func rateDomain(domain string) (string, error) {
	if domain == "*" {
		return domain, nil
	}
	ascii, err := idna.Lookup.ToASCII(domain)
	if err != nil || !isDomain(ascii) {
		return "", fmt.Errorf("%q is neither a domain name nor *", domain)
	}
	return strings.ToLower(ascii), nil
}

// A Send waits so long for its turn; who would wait longer is sent away. Those of
// whom there are less than their share among those who wait may wait sharePatience.
const (
	ratePatience  = time.Second
	sharePatience = 2 * time.Second
)

// Who is sent away is told to come back within this time, however many are
// before it.
const longestPromise = 10 * time.Minute

// limit lets messages pass at a rate. Nil lets all pass. Where more come than can
// pass, no flow keeps the others out.
type limit struct {
	limiter *rate.Limiter
	every   time.Duration // the time between two messages

	mu       sync.Mutex
	waiting  map[flow]int       // how many wait for their turn, no flow with none
	total    int                // of them
	promised map[flow]time.Time // when the last of those sent away may come back
}

// newLimit spreads the messages evenly: only a tenth of a second's worth may
// come at once.
func newLimit(r Rate) *limit {
	if r == (Rate{}) {
		return nil
	}
	perSecond := float64(r.Messages) / r.Per.Seconds()
	return &limit{
		limiter: rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond/10))), every: r.every(),
		waiting: map[flow]int{}, promised: map[flow]time.Time{},
	}
}

// wait waits for the caller's turn if that is soon. Otherwise it tells when to
// come back, and no turn is used up.
func (l *limit) wait(ctx context.Context, f flow) (comeBack time.Duration, err error) {
	if l == nil {
		return 0, nil
	}
	turn, comeBack := l.join(f)
	if comeBack > 0 {
		return comeBack, nil
	}
	defer l.leave(f)
	delay := turn.Delay()
	if delay == 0 {
		return 0, nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return 0, nil
	case <-ctx.Done():
		turn.Cancel()
		return 0, givenUp(ctx)
	}
}

// join gives a turn that comes soon enough, or tells when to come back. It looks
// before it takes one: turns that many take and give back at the same time are lost.
func (l *limit) join(f flow) (turn *rate.Reservation, comeBack time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	patience := ratePatience
	if l.waiting[f]*len(l.waiting) < l.total {
		patience = sharePatience
	}
	delay := time.Duration((1 - l.limiter.Tokens()) * float64(l.every))
	if delay > patience {
		return nil, l.promise(f, delay)
	}
	l.waiting[f]++
	l.total++
	return l.limiter.Reserve(), 0
}

func (l *limit) leave(f flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.waiting[f]--; l.waiting[f] == 0 {
		delete(l.waiting, f)
	}
}

// promise gives each of those sent away a time of its own, so that they come
// back at the rate at which they can pass, and not all together. No flow comes
// later because another one has sent so much.
func (l *limit) promise(f flow, delay time.Duration) (comeBack time.Duration) {
	now := time.Now()
	last, known := l.promised[f]
	if !known {
		maps.DeleteFunc(l.promised, func(_ flow, at time.Time) bool { return at.Before(now) })
	}
	l.promised[f], comeBack = promise(last, now, delay, l.every*time.Duration(len(l.promised)))
	return comeBack
}

// promise tells when to come back: after delay, or a step behind the last one who was
// told. It gives who is the last one then.
func promise(last, now time.Time, delay, step time.Duration) (newLast time.Time, comeBack time.Duration) {
	comeBack = max(delay, last.Add(step).Sub(now))
	if comeBack > longestPromise {
		return last, longestPromise/2 + rand.N(longestPromise/2)
	}
	return now.Add(comeBack), comeBack
}

// busy reports whether a message would have to wait.
func (l *limit) busy() bool { return l != nil && l.limiter.Tokens() < 1 }

// rested reports whether l does not differ from a new one.
func (l *limit) rested() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, at := range l.promised {
		if time.Now().Before(at) {
			return false
		}
	}
	return l.limiter.Tokens() >= float64(l.limiter.Burst())
}

// domainLimits holds a limit for each recipient domain. Domains without a rate
// of their own are forgotten when there are too many of them.
type domainLimits struct {
	rates map[string]Rate
	most  int // domains remembered

	mu     sync.Mutex
	limits map[string]*limit
}

func newDomainLimits(rates map[string]Rate) (*domainLimits, error) {
	d := &domainLimits{rates: map[string]Rate{}, most: 10_000 + len(rates), limits: map[string]*limit{}}
	for domain, r := range rates {
		name, err := rateDomain(domain)
		if err != nil {
			return nil, fmt.Errorf("domain rates: %w", err)
		}
		if r != (Rate{}) && (r.Messages < 1 || r.Per < 1 || r.every() < 1) {
			return nil, fmt.Errorf("domain rates: the rate of %q is not positive", domain)
		}
		d.rates[name] = r
	}
	return d, nil
}

// of gives the limit of a domain in A-labels, nil if it has none.
func (d *domainLimits) of(domain string) *limit {
	domain = strings.ToLower(domain)
	r, named := d.rates[domain]
	if !named {
		r = d.rates["*"]
	}
	if r == (Rate{}) {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.limits[domain]; l != nil {
		return l
	}
	if len(d.limits) >= d.most {
		d.forget()
	}
	l := newLimit(r)
	d.limits[domain] = l
	return l
}

// forget drops the limits that do not differ from new ones. If nearly all are
// in use it drops some of these too, and their domains may get a few messages
// more than they should: memory comes first.
func (d *domainLimits) forget() {
	for _, drop := range []func(*limit) bool{(*limit).rested, func(*limit) bool { return true }} {
		for domain, l := range d.limits {
			if len(d.limits) <= d.most*3/4 {
				return
			}
			if _, named := d.rates[domain]; !named && drop(l) {
				delete(d.limits, domain)
			}
		}
	}
}
