package api_test

import (
	"net/http"
	"net/url"
	"testing"
)

func TestEvents_areReadPageByPage(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.batch([]string{`{"email":"a@example.com"}`, `{"email":"b@example.com"}`, `{"email":"c@example.com"}`}).want(http.StatusAccepted)
	eventually(t, "no other test's transaction is older", func() bool {
		list, _ := s.get("/v1/events").document()["events"].([]any)
		return len(list) == 3
	})
	seen := map[any]bool{}
	next := ""
	for _, want := range []int{2, 1, 0} {
		a := s.get("/v1/events?limit=2&after=" + next).want(http.StatusOK)
		s.description().declared(a, "/v1/events")
		d := a.document()
		list, _ := d["events"].([]any)
		if len(list) != want {
			t.Fatalf("%d events instead of %d: %v", len(list), want, d)
		}
		for _, item := range list {
			e, _ := item.(map[string]any)
			if e["type"] != "invitation.created" || e["group_id"] != "42" || seen[e["invitation_id"]] {
				t.Errorf("%v", e)
			}
			seen[e["invitation_id"]] = true
		}
		next, _ = d["next"].(string)
	}
}

func TestEvents_refuseWhatIsNoCursor(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for _, query := range []string{"after=x", "after=999999999999999999-1", "after=" + url.QueryEscape("\x00"), "after=%ff", "limit=0", "limit=1001", "limit=x", "more=1"} {
		a := s.get("/v1/events?" + query)
		s.description().declared(a, "/v1/events")
		s.silent(a)
		a.problem(http.StatusUnprocessableEntity, "invalid-input")
	}
}
