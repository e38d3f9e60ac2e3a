package outbox_test

import (
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// What has lapsed makes room, whichever way the call takes and whatever stands
// beside it in the batch.
func TestInviteMany_expiresWhatHasLapsed(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][]string{"without keys": {"", ""}, "with keys": {"k", "l"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := outboxtest.Database(t)
			invite := func() []outbox.Receipt {
				t.Helper()
				receipts, err := outbox.InviteMany(t.Context(), pool, []outbox.Invitation{
					{GroupID: "g", Email: "c@example.com"}, {GroupID: "g", Email: "live@example.com"},
					{GroupID: "g", Email: "a@example.com", IdempotencyKey: keys[0]}, {GroupID: "g", Email: "b@example.com", IdempotencyKey: keys[1]},
				})
				if err != nil {
					t.Fatal(err)
				}
				return receipts
			}
			for _, email := range []string{"a@example.com", "c@example.com", "live@example.com"} {
				if _, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: email}); err != nil {
					t.Fatal(err)
				}
			}
			exec(t, pool, `UPDATE mailcrane.invitation SET expires_at = now() WHERE email <> 'live@example.com'`)
			receipts := invite()
			for i, want := range []outbox.Result{outbox.Created, outbox.Existing, outbox.Created, outbox.Created} {
				if receipts[i].Result != want {
					t.Errorf("item %d: %+v, want %s", i, receipts[i], want)
				}
			}
			if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.invitation WHERE status = 'expired'`); n != 2 {
				t.Errorf("%d expired, want 2", n)
			}
			if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.message AS m JOIN mailcrane.river_job AS j ON j.id = m.job_id AND j.args ->> 'message_id' = m.id::text`); n != value[int](t, pool, `SELECT count(*) FROM mailcrane.invitation`) {
				t.Errorf("%d messages with jobs", n)
			}
		})
	}
}
