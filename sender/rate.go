package sender

import (
	"context"
	"errors"
	"fmt"
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

// A Send waits so long for its turn; who would wait longer is sent away.
const ratePatience = time.Second

// Who is sent away is told to come back within this time, however many are
// before it.
const longestPromise = 10 * time.Minute

// limit lets messages pass at a rate. Nil lets all pass.
type limit struct {
	limiter *rate.Limiter
	every   time.Duration // the time between two messages

	mu       sync.Mutex
	promised time.Time // when the last of those sent away may come back
}

// newLimit spreads the messages evenly: only a tenth of a second's worth may
// come at once.
func newLimit(r Rate) *limit {
	if r == (Rate{}) {
		return nil
	}
	perSecond := float64(r.Messages) / r.Per.Seconds()
	return &limit{limiter: rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond/10))), every: r.every()}
}

// wait waits for the caller's turn if that is soon. Otherwise it tells when to
// come back, and no turn is used up.
func (l *limit) wait(ctx context.Context) (comeBack time.Duration, err error) {
	if l == nil {
		return 0, nil
	}
	turn := l.limiter.Reserve()
	delay := turn.Delay()
	switch {
	case delay == 0:
		return 0, nil
	case delay > ratePatience:
		turn.Cancel()
		return l.promise(delay), nil
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

// promise gives each of those sent away a time of its own, so that they come
// back at the rate at which they can pass, and not all together.
func (l *limit) promise(delay time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	at := now.Add(delay)
	if next := l.promised.Add(l.every); next.After(at) {
		at = next
	}
	if last := now.Add(longestPromise); at.After(last) {
		return longestPromise/2 + rand.N(longestPromise/2)
	}
	l.promised = at
	return at.Sub(now)
}

// busy reports whether a message would have to wait.
func (l *limit) busy() bool { return l != nil && l.limiter.Tokens() < 1 }

// rested reports whether l does not differ from a new one.
func (l *limit) rested() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.limiter.Tokens() >= float64(l.limiter.Burst()) && time.Now().After(l.promised)
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
