package outbox_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// BenchmarkAudit audits a million messages, each with its attempt and every
// hundredth with an unknown one before, that were sent within a month or a day;
// and a thousand that are queued:
//
//	go test -run '^$' -bench Audit ./outbox
func BenchmarkAudit(b *testing.B) {
	for _, over := range []time.Duration{30 * 24 * time.Hour, 24 * time.Hour} {
		b.Run(fmt.Sprint("million over ", over), func(b *testing.B) {
			pool := outboxtest.Database(b)
			for _, statement := range []string{
				`INSERT INTO mailcrane.message (recipient, template, status, job_id, created_at, finished_at)
				 SELECT 'person' || i || '@example.com', 'verify', 'sent', i, at, at + interval '1 second'
				 FROM generate_series(1, 1000000) AS i,
				      LATERAL (SELECT now() - $1::interval * (1 - i / 1000001.0)) AS t (at)`,
				`INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, outcome, was_unknown, relay, began_at, finished_at)
				 SELECT m.id, n, m.job_id, m.id, CASE WHEN n < last THEN 'unknown' ELSE 'accepted' END, n < last, 'relay:25', m.created_at, m.finished_at
				 FROM mailcrane.message AS m,
				      LATERAL (SELECT CASE WHEN m.job_id % 100 = 0 THEN 2 ELSE 1 END) AS l (last),
				      generate_series(1, last) AS n
				 WHERE $1::interval > interval '0'
				 ORDER BY m.created_at`,
			} {
				if _, err := pool.Exec(b.Context(), statement, over); err != nil {
					b.Fatal(err)
				}
			}
			for i := range 1000 {
				if _, err := outbox.Enqueue(b.Context(), pool, outbox.Draft{Recipient: fmt.Sprintf("queued%d@example.com", i), Template: "verify"}); err != nil {
					b.Fatal(err)
				}
			}
			for _, table := range []string{"message", "attempt", "river_job"} {
				if _, err := pool.Exec(b.Context(), `VACUUM ANALYZE mailcrane.`+table); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				findings, err := outbox.Audit(b.Context(), pool, 0)
				if err != nil || len(findings) > 0 {
					b.Fatalf("%d findings, %v", len(findings), err)
				}
			}
		})
	}
}
