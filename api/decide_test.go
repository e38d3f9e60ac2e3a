package api_test

import (
	"net/http"
	"testing"
)

func TestDecide_releasesAHeldMessageOrMarksItSent(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"release": "queued", "mark-sent": "sent"} {
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
			if got := decide(id, http.StatusOK).document()["status"]; got != want {
				t.Errorf("the message is %v, want %s", got, want)
			}
			decide(id, http.StatusConflict)
			decide("nonsense", http.StatusNotFound)
		})
	}
}
