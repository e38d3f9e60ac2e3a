package api_test

import (
	"net/http"
	"testing"
	"time"
)

func TestDecide_releasesAHeldMessageOrMarksItSent(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"release": "queued", "mark-sent": "sent"} {
		done := map[string]int{"release": http.StatusAccepted, "mark-sent": http.StatusOK}[path]
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			s := start(t, nil)
			d := s.description()
			id, _ := s.invite(ada).want(http.StatusAccepted).document()["message_id"].(string)
			decide := func(id string, status int) *answer {
				a := s.request(http.MethodPost, "/v1/messages/"+id+"/"+path, "").want(status)
				d.declared(a, "/v1/messages/{id}/"+path)
				return a
			}
			execute := func(statement string) {
				if _, err := s.pool.Exec(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
			decide(id, http.StatusConflict) // it is only queued
			execute(`UPDATE mailcrane.message SET status = 'held', held_by = 'unknown'`)
			execute(`INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, outcome, was_unknown, finished_at)
				SELECT id, 1, job_id, mailcrane.uuid_v7(), 'unknown', true, now() FROM mailcrane.message`)
			if got := decide(id, done).document()["status"]; got != want {
				t.Errorf("the message is %v, want %s", got, want)
			}
			decide(id, http.StatusConflict)
			decide("nonsense", http.StatusNotFound)
		})
	}
}

func TestRetry_sendsAFailedMessageAgain(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.relay()
	a := s.invite(`{"email":"bounce@example.com"}`).want(http.StatusAccepted)
	_, message, _ := s.finished(a.Header.Get("Location"))
	path := "/v1/messages/" + message["id"].(string)
	if message["status"] != "failed" {
		t.Fatalf("%v", message)
	}
	// It was tried long ago, and for as long as it may be.
	if _, err := s.pool.Exec(t.Context(), `UPDATE mailcrane.message SET created_at = now() - interval '30 days'`); err != nil {
		t.Fatal(err)
	}
	retried := s.post(path+"/retry", "/v1/messages/{id}/retry", "").want(http.StatusAccepted)
	d := retried.document()
	tried, _ := d["attempts"].([]any)
	if d["status"] != "queued" && len(tried) != 2 { // the relay may have been quicker than the answer
		t.Errorf("%v", d)
	}
	eventually(t, "it is tried again", func() bool {
		return s.get(path).document()["status"] == "failed"
	})
	attempts := s.get(path + "/attempts").want(http.StatusOK)
	s.description().declared(attempts, "/v1/messages/{id}/attempts")
	if list, _ := attempts.document()["attempts"].([]any); len(list) != 2 || list[1].(map[string]any)["outcome"] != "rejected" {
		t.Errorf("%s", attempts.body)
	}
	if n := count(t, s.pool, `SELECT count(*) FROM mailcrane.audit()`); n != 0 {
		t.Errorf("audit finds %d things", n)
	}
	s.invite(`{"email":"ada@example.com"}`)
	queued := s.invite(`{"email":"grace@example.com","send_after":"` + time.Now().Add(time.Hour).Format(time.RFC3339) + `"}`).document()["message_id"].(string)
	s.post("/v1/messages/"+queued+"/retry", "/v1/messages/{id}/retry", "").problem(http.StatusConflict, "not-failed")
	s.post("/v1/messages/x/retry", "/v1/messages/{id}/retry", "").problem(http.StatusNotFound, "not-found")
	s.get("/v1/messages/x/attempts").problem(http.StatusNotFound, "not-found")
}
