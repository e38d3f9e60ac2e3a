package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The ids of Postmark have up to 19 digits: more than a floating-point number holds.
func TestProviders_tellLongIDsApart(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for i := range 3 {
		body := fmt.Sprintf(`{"RecordType":"Bounce","Type":"HardBounce","ID":%d,"Email":"u%d@example.com"}`, 4323372036854775807+i, i)
		a := s.request(http.MethodPost, "/v1/bounces/postmark", body).want(http.StatusOK)
		if a.document()["recorded"] != 1.0 {
			t.Errorf("%d: %s", i, a.body)
		}
	}
	if got := s.suppressedNow(); got != "u0@example.com bounce, u1@example.com bounce, u2@example.com bounce" {
		t.Errorf("suppressed are %s", got)
	}
}

// Two reports about the same addresses in opposite orders wait for each other.
func TestBounces_atTheSameMomentInAnyOrder(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for round := range 5 {
		var items []string
		for i := range 400 {
			items = append(items, fmt.Sprintf(`{"kind":"hard","address":"r%du%d@example.com"}`, round, i))
		}
		backwards := slices.Clone(items)
		slices.Reverse(backwards)
		var wg sync.WaitGroup
		for _, list := range [][]string{items, backwards, items, backwards} {
			wg.Go(func() {
				a := s.request(http.MethodPost, "/v1/bounces", `{"bounces":[`+strings.Join(list, ",")+`]}`)
				if a.StatusCode != http.StatusOK {
					t.Errorf("%d: %.200s", a.StatusCode, a.body)
				}
			})
		}
		wg.Wait()
	}
	if strings.Contains(s.logs.String(), `"level":"ERROR"`) {
		t.Error("errors were logged")
	}
}

// Whoever reports a thousand must learn which of them is wrong.
func TestBounces_sayWhichIsWrong(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	a := s.request(http.MethodPost, "/v1/bounces", `{"bounces":[{"kind":"hard","address":"z@example.com"},{"kind":"hard","address":"x"},
		{"kind":"soft","address":"a@example.com"},{"kind":"soft","address":"a@example.org","source":"`+long101+`"}]}`)
	found, _ := a.problem(http.StatusUnprocessableEntity, "invalid-input")["errors"].([]any)
	var pointers []string
	for _, item := range found {
		e, _ := item.(map[string]any)
		pointers = append(pointers, fmt.Sprint(e["pointer"]))
	}
	if want := []string{"#/bounces/1/address", "#/bounces/3/source"}; !slices.Equal(pointers, want) {
		t.Errorf("%q instead of %q", pointers, want)
	}
}

// A subscription that nobody confirms reports nothing, and says so nowhere.
func TestProviders_logWhereToConfirmASubscription(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	const good = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn:aws:sns:eu-west-1:1:t&Token=2336"
	ask := func(url string) *answer {
		t.Helper()
		body := fmt.Sprintf(`{"Type":"SubscriptionConfirmation","MessageId":"1","Token":"2336","TopicArn":"arn:aws:sns:eu-west-1:1:t","Message":"You have chosen","SubscribeURL":%q}`, url)
		a := s.request(http.MethodPost, "/v1/bounces/ses", body, "Content-Type", "-", "Content-Type", "text/plain; charset=UTF-8")
		s.description().declared(a, "/v1/bounces/{provider}")
		return a
	}
	for _, bad := range []string{
		"", "https://evil.example/?Token=1", "http://sns.eu-west-1.amazonaws.com/?Token=1", "https://sns.eu-west-1.amazonaws.com.evil.example/?Token=1",
		"https://sns.eu-west-1.amazonaws.com@evil.example/?Token=1", "https://evil.example/sns.eu-west-1.amazonaws.com/?Token=1", "https://sns.x.evil.amazonaws.com/?Token=1",
		"https://sns.eu-west-1.amazonaws.com:8443/?Token=1", "https://sns.eu-west-1.amazonaws.com/?Token=1\nlevel=ERROR",
	} {
		ask(bad).problem(http.StatusUnprocessableEntity, "invalid-input")
	}
	if strings.Contains(s.logs.String(), "subscribe_url") {
		t.Errorf("logged: %s", s.logs.String())
	}
	if got := ask(good).want(http.StatusOK).document()["ignored"]; got != 1.0 {
		t.Errorf("ignored are %v", got)
	}
	if logs := strings.ReplaceAll(s.logs.String(), `\u0026`, "&"); !strings.Contains(logs, `"subscribe_url":"`+good+`"`) || !strings.Contains(logs, `"level":"WARN"`) {
		t.Errorf("logged: %s", logs)
	}
}
