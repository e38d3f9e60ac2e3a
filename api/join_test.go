package api_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/api"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

func withJoin(c *api.Config) { c.Join, c.Token = true, token }

// joinable is an invitation that was mailed, and the path of its page.
func (s *service) joinable(body string) (m mailed, path string) {
	s.t.Helper()
	hop := s.relay()
	a := s.request(http.MethodPost, "/v1/groups/42/invitations", body, operator()...).want(http.StatusAccepted)
	location := a.Header.Get("Location")
	id := strings.TrimPrefix(location, "/v1/invitations/")
	messageID, _ := a.document()["message_id"].(string)
	eventually(s.t, "it is mailed", func() bool { return strings.Contains(string(s.get(location, operator()...).body), `"status":"sent"`) })
	m = mailed{id, messageID, hop.token(messageID)}
	return m, "/join/" + m.token
}

func (s *service) answerPage(path, answer string, header ...string) *answer {
	s.t.Helper()
	return s.request(http.MethodPost, path, "answer="+answer, append([]string{"Content-Type", "-", "Content-Type", "application/x-www-form-urlencoded"}, header...)...)
}

func (s *service) invitationStatus() string {
	s.t.Helper()
	return s.value(`SELECT status FROM mailcrane.invitation`)
}

// sayings says whether a page has the headers and the text that it should.
func (a *answer) sayings(texts ...string) {
	a.t.Helper()
	for name, want := range map[string]string{
		"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff",
		"X-Robots-Tag": "noindex, nofollow", "Content-Type": "text/html; charset=utf-8",
	} {
		if got := a.Header.Get(name); got != want {
			a.t.Errorf("%s is %q", name, got)
		}
	}
	policy := a.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
		if !strings.Contains(policy, want) || strings.Contains(policy, "unsafe") {
			a.t.Errorf("policy is %q", policy)
		}
	}
	for _, text := range texts {
		if !strings.Contains(string(a.body), text) {
			a.t.Errorf("the page does not say %q:\n%s", text, a.body)
		}
	}
}

func TestJoin_acceptsByPOSTOnly(t *testing.T) {
	t.Parallel()
	for word, status := range map[string]string{"accept": "accepted", "decline": "declined"} {
		t.Run(word, func(t *testing.T) {
			t.Parallel()
			s := start(t, withJoin)
			_, path := s.joinable(ada)
			s.get(path).want(http.StatusOK).sayings("You are invited", "Analytical Engine Club", "Charles", "<button")
			s.answerPage(path, "maybe").want(http.StatusBadRequest).sayings("not an answer")
			s.answerPage(path, strings.Repeat("x", 2000)).want(http.StatusBadRequest)
			if got := s.invitationStatus(); got != "pending" {
				t.Fatalf("the invitation is %s", got)
			}
			a := s.answerPage(path, word).want(http.StatusSeeOther)
			if a.leadsTo() != s.URL+path || a.Header.Get("Referrer-Policy") != "no-referrer" {
				t.Errorf("leads to %q", a.Header.Get("Location"))
			}
			if got := s.invitationStatus(); got != status {
				t.Fatalf("the invitation is %s", got)
			}
			page := s.get(path).want(http.StatusOK)
			page.sayings("You have " + status)
			if strings.Contains(string(page.body), "<form") {
				t.Error("the page asks once more")
			}
			s.answerPage(path, "accept").want(http.StatusOK).sayings("You have " + status)
			if got := s.invitationStatus(); got != status {
				t.Errorf("the invitation is %s", got)
			}
			if strings.Contains(s.logs.String(), path[len("/join/"):]) {
				t.Error("the log has the token")
			}
		})
	}
}

// A program that looks at everything in a mail accepts nothing.
func TestJoin_aScannerChangesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, withJoin)
	_, path := s.joinable(ada)
	links := regexp.MustCompile(`(?:href|src|action|formaction)="([^"]*)"`)
	todo, seen := []string{path, path + "/", path + "?answer=accept", path + "/accept", path + "/decline"}, map[string]bool{}
	tried := 0
	for len(todo) > 0 {
		next := todo[0]
		todo = todo[1:]
		if seen[next] {
			continue
		}
		seen[next] = true
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions, "PROPFIND"} {
			for _, header := range [][]string{nil, {"Sec-Purpose", "prefetch;prerender"}, {"X-Purpose", "preview", "User-Agent", "Safe Links"}} {
				a := s.request(method, next, "", header...)
				tried++
				for _, link := range links.FindAllStringSubmatch(string(a.body), -1) {
					if target, err := url.Parse(link[1]); err == nil && target.Host == "" {
						todo = append(todo, target.Path)
					}
				}
			}
		}
	}
	if got := s.invitationStatus(); got != "pending" {
		t.Errorf("after %d requests the invitation is %s", tried, got)
	}
}

func TestJoin_saysWhatAnInvitationIsInstead(t *testing.T) {
	t.Parallel()
	s := start(t, withJoin)
	m, path := s.joinable(`{"email":"ada@example.com","locale":"de-AT"}`)
	s.get(path).want(http.StatusOK).sayings(`lang="de"`, "Sie sind eingeladen", "Annehmen")
	if _, err := s.pool.Exec(t.Context(), `UPDATE mailcrane.invitation SET expires_at = now()`); err != nil {
		t.Fatal(err)
	}
	s.get(path).want(http.StatusGone).sayings("abgelaufen")
	s.answerPage(path, "accept").want(http.StatusGone).sayings("abgelaufen")
	if _, err := s.pool.Exec(t.Context(), `UPDATE mailcrane.invitation SET expires_at = now() + interval '1 day'`); err != nil {
		t.Fatal(err)
	}
	s.request(http.MethodPost, "/v1/invitations/"+m.id+"/revoke", "", operator()...).want(http.StatusOK)
	s.get(path).want(http.StatusGone).sayings("zurückgezogen")
	s.answerPage(path, "accept").want(http.StatusGone)
	for _, wrong := range []string{"/join/x", "/join/" + strings.Repeat("A", 43), "/join/%00", "/join/%ff", "/join/" + strings.Repeat("x", 5000)} {
		s.get(wrong, "Accept-Language", "fr, de;q=0.9").want(http.StatusNotFound).sayings("nicht gültig")
		s.answerPage(wrong, "accept").want(http.StatusNotFound).sayings("not valid")
	}
	down := start(t, func(c *api.Config) { withoutDatabase(t)(c); c.Join = true })
	down.get(path).want(http.StatusServiceUnavailable).sayings("does not work at the moment")
	start(t, nil).get(path).problem(http.StatusNotFound, "not-found")
}

func TestJoin_namesAreOnlyText(t *testing.T) {
	t.Parallel()
	s := start(t, withJoin)
	_, path := s.joinable(`{"email":"ada@example.com","group_name":"<script>alert(1)</script>","inviter_name":"\"><img src=x onerror=alert(1)> נועה"}`)
	page := s.get(path).want(http.StatusOK)
	page.sayings("<bdi>&lt;script&gt;", "&lt;img src=x", "נועה")
	if n := strings.Count(string(page.body), "<script") + strings.Count(string(page.body), "<img"); n != 0 {
		t.Errorf("%s", page.body)
	}
}

func TestJoin_leadsOn(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *api.Config) {
		withJoin(c)
		c.JoinNext = "https://app.example.com/welcome?invitation={id}"
	})
	m, path := s.joinable(ada)
	if policy := s.get(path).Header.Get("Content-Security-Policy"); !strings.Contains(policy, "form-action 'self' https://app.example.com;") {
		t.Errorf("policy is %q", policy)
	}
	next := "https://app.example.com/welcome?invitation=" + m.id
	for _, click := range []string{"first", "second"} {
		if got := s.answerPage(path, "accept").want(http.StatusSeeOther).leadsTo(); got != next {
			t.Errorf("the %s click leads to %q", click, got)
		}
	}
	s.get(path).want(http.StatusOK).sayings("You have accepted", `<a href="`+next+`">Go on</a>`) // so does the link in the mail, once more
	if page := s.answerPage(path, "decline").want(http.StatusOK); page.Header.Get("Location") != "" {
		t.Errorf("who has accepted declines: %s", page.body)
	}
	if _, err := api.New(api.Config{Pool: s.pool, Join: true, JoinNext: "nowhere"}); err == nil {
		t.Error("a place that is none is taken")
	}
}

// leadsTo is where a browser goes that gets a.
func (a *answer) leadsTo() string {
	a.t.Helper()
	location, err := a.Location()
	if err != nil {
		a.t.Fatal(err)
	}
	return location.String()
}

// A proxy in front may have the daemon below a path, and cut that off.
func TestJoin_leadsOnBelowAPath(t *testing.T) {
	t.Parallel()
	s := start(t, withJoin)
	_, path := s.joinable(ada)
	outside := httptest.NewServer(http.StripPrefix("/mail", s.Config.Handler))
	t.Cleanup(outside.Close)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, outside.URL+"/mail"+path, strings.NewReader("answer=accept"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if got := s.do(r).want(http.StatusSeeOther).leadsTo(); got != outside.URL+"/mail"+path {
		t.Errorf("leads to %q", got)
	}
}

// Of many answers at once, one counts.
func TestJoin_manyAnswersAtOnce(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	s := start(t, func(c *api.Config) {
		withJoin(c)
		c.Pool = outboxtest.Connections(t, pool, 64) // the relay has some as well
	})
	_, path := s.joinable(ada)
	answers := make(chan int, 50)
	outboxtest.AtOnce(t, pool, `SELECT FROM mailcrane.invitation FOR UPDATE`, 50, func(i int) {
		answers <- s.answerPage(path, []string{"accept", "decline"}[i%2]).StatusCode
	})
	counts := map[int]int{}
	for range 50 {
		counts[<-answers]++
	}
	if fmt.Sprint(counts) != "map[200:49 303:1]" {
		t.Errorf("answers are %v", counts)
	}
}
