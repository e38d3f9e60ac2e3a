package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
)

// pages reads a list to its end, and calls between between two pages.
func (s *service) pages(path, described, list string, between func()) (ids []any) {
	s.t.Helper()
	after := ""
	for range 100 {
		a := s.get(path + "&after=" + after).want(http.StatusOK)
		s.description().declared(a, described)
		d := a.document()
		items, _ := d[list].([]any)
		for _, item := range items {
			row, _ := item.(map[string]any)
			ids = append(ids, row["id"])
		}
		next, more := d["next"].(string)
		if !more {
			return ids
		}
		after = next
		between()
	}
	s.t.Fatal("it has no end")
	return nil
}

// What is written while somebody turns the pages neither moves nor repeats anything.
func TestList_pagesStandStill(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	var items []string
	for i := range 25 {
		items = append(items, fmt.Sprintf(`{"email":"u%d@example.com"}`, i))
	}
	written := s.batch(items).receipt()
	want := map[any]bool{}
	for _, r := range written.Results {
		want[r.ID], want[r.MessageID] = true, true
	}
	n := 0
	between := func() {
		n++
		s.invite(fmt.Sprintf(`{"email":"new%d@example.com"}`, n)).want(http.StatusAccepted)
	}
	for path, list := range map[string]string{"/v1/invitations": "invitations", "/v1/messages": "messages"} {
		seen := map[any]bool{}
		before := n
		for i, id := range s.pages(path+"?limit=6", path, list, between) {
			if seen[id] {
				t.Errorf("%s comes twice", id)
			}
			seen[id] = true
			if !want[id] && i >= before {
				t.Errorf("%s was not there at the beginning", id)
			}
		}
		if len(seen) != 25+before {
			t.Errorf("%s: %d rows", path, len(seen))
		}
	}
}

func TestList_isFiltered(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	first := s.invite(ada).want(http.StatusAccepted).document()
	s.invite(`{"email":"grace@example.com"}`).want(http.StatusAccepted)
	s.post(fmt.Sprintf("/v1/invitations/%s/revoke", first["id"]), "/v1/invitations/{id}/revoke", "").want(http.StatusOK)
	for query, want := range map[string]int{
		"/v1/invitations?": 2, "/v1/invitations?group_id=42": 2, "/v1/invitations?group_id=43": 0, "/v1/invitations?email=ADA@example.com": 1,
		"/v1/invitations?status=revoked": 1, "/v1/invitations?status=pending&email=ada@example.com": 0,
		"/v1/messages?": 2, "/v1/messages?recipient=Grace@example.com": 1, "/v1/messages?template=verify": 0, "/v1/messages?status=cancelled": 1,
		fmt.Sprintf("/v1/messages?invitation_id=%s", first["id"]): 1,
	} {
		u, err := url.Parse(query)
		if err != nil {
			t.Fatal(err)
		}
		if ids := s.pages(query, u.Path, u.Path[len("/v1/"):], nil); len(ids) != want {
			t.Errorf("%s: %d rows", query, len(ids))
		}
	}
}

func TestList_refusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for _, path := range []string{"/v1/invitations", "/v1/messages"} {
		for _, query := range []string{
			"after=x", "after=%00", "after=%ff", "after=" + url.QueryEscape("===="), "after=MDE5", "limit=0", "limit=101", "limit=x", "status=x", "status=", "more=1",
			"email=%00", "group_id=%ff", "recipient=%00", "template=%ff", "invitation_id=x", "invitation_id=%00",
		} {
			a := s.get(path + "?" + query)
			s.description().declared(a, path)
			s.silent(a)
			if a.StatusCode != http.StatusUnprocessableEntity && query != "status=" {
				t.Errorf("%s?%s: %d %s", path, query, a.StatusCode, a.body)
			}
		}
	}
}
