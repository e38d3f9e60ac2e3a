package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// handing is what the handover of one message writes.
type handing struct {
	claim
	messageID string
	attempt   int
	relay     string
	allowed   int    // unknown outcomes behind it
	header    string // Message-ID
	tokenHash []byte
}

// openAttempts writes the open attempts of those messages that nobody else has
// locked, and about which nothing has changed since open.
//
// The lock orders it against whoever changes the status, which is read under it.
// What other daemons have done since open shows in the numbers: an attempt takes
// the one after all that were known, so it is in the way of any that was not.
const openAttempts = `
		INSERT INTO mailcrane.attempt (message_id, number, job_id, instance_id, relay, allowed_unknown, header_message_id, token_hash)
		SELECT m.id, x.number, x.job_id, $9::uuid, x.relay, x.allowed, x.header_message_id, x.token_hash
		FROM (
			SELECT *
			FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::integer[], $5::text[], $6::integer[], $7::text[], $8::bytea[])
				AS given (id, number, job_id, job_attempt, relay, allowed, header_message_id, token_hash)
			ORDER BY given.id
		) AS x
		CROSS JOIN LATERAL (
			SELECT l.id, l.status, l.expires_at, l.tenant, l.template, l.recipient, l.invitation_id
			FROM mailcrane.message AS l
			WHERE l.id = x.id
			FOR NO KEY UPDATE SKIP LOCKED
		) AS m
		WHERE m.status = 'queued'
		  AND coalesce(m.expires_at > clock_timestamp(), true)
		  AND NOT EXISTS (
			SELECT FROM mailcrane.hold AS h WHERE h.tenant IN (m.tenant, '*') AND h.template IN (m.template, '*'))
		  AND NOT EXISTS (
			SELECT FROM mailcrane.suppression AS s WHERE s.tenant = m.tenant AND s.address = lower(m.recipient))
		  AND NOT EXISTS (
			SELECT FROM mailcrane.invitation AS i WHERE i.id = m.invitation_id AND i.status <> 'pending')
		  AND (x.number = 1 OR NOT EXISTS (
			SELECT FROM mailcrane.attempt AS a
			WHERE a.message_id = m.id AND (a.outcome = 'accepted' OR a.outcome IS NULL)))
		  AND (x.number = 1 OR x.allowed >= (
			SELECT count(*) FROM mailcrane.attempt AS a WHERE a.message_id = m.id AND a.was_unknown))
		  AND EXISTS (
			SELECT FROM mailcrane.instance AS n
			WHERE n.id = $9::uuid AND n.stopped_at IS NULL AND n.heartbeat_at > clock_timestamp() - n.lease)
		  AND EXISTS (
			SELECT FROM mailcrane.river_job AS j
			WHERE j.id = x.job_id
			  AND (j.state = 'running') IS TRUE
			  AND j.attempt = x.job_attempt
			  AND j.attempted_by[array_upper(j.attempted_by, 1)] = $9::uuid::text)
		ON CONFLICT DO NOTHING
		RETURNING job_id`

// handover is the point of no return (R3): one transaction, which the caller's
// context cannot cancel, that checks the right to send once more and writes the
// open attempt. It fails if anything has changed since open; then nothing may
// be sent. It also fails when the answer to the commit is lost; then the row may
// be there, and close will close it.
//
// Handovers of the same moment share a transaction. A message that somebody else
// has locked is left out, and comes back later.
func (t *try) handover(ctx context.Context, relay string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("handover: %w", err)
	}
	t.handoverBegun = true
	h := handing{
		claim: t.claim, messageID: t.messageID, attempt: t.message.Attempt, relay: relay,
		allowed: t.allowed, header: t.message.HeaderMessageID, tokenHash: t.tokenHash,
	}
	r := t.relay
	entitled, err := r.groups.handover.do(context.Background(), h)
	if errors.Is(err, errAlone) {
		entitled, err = byItself(r, h, r.handOver)
	}
	switch {
	case err != nil:
		return fmt.Errorf("handover of message %s: %w", t.messageID, err)
	case !entitled:
		return fmt.Errorf("handover of message %s: %w", t.messageID, errLostRight)
	}
	if err := r.instance.trusted(); err != nil { // R4
		return fmt.Errorf("handover of message %s: %w", t.messageID, err)
	}
	t.handedOver = true
	return nil
}

// handOver answers for each message whether it may be sent, which is on disk
// then.
func (r *Relay) handOver(hs []handing, alone bool) []answer[bool] {
	ctx, cancel := context.WithTimeout(context.Background(), r.Lease)
	defer cancel()
	ids := uuids(hs, func(h handing) string { return h.messageID })
	batch := newTransaction(alone)
	var opened []int64
	batch.Queue(openAttempts, ids,
		column(hs, func(h handing) int { return h.attempt }),
		column(hs, func(h handing) int64 { return h.job }),
		column(hs, func(h handing) int { return h.jobAttempt }),
		column(hs, func(h handing) string { return h.relay }),
		column(hs, func(h handing) int { return h.allowed }),
		column(hs, func(h handing) string { return h.header }),
		column(hs, func(h handing) []byte { return h.tokenHash }),
		r.instance.id).Query(func(rows pgx.Rows) (err error) {
		opened, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	if err := r.Pool.SendBatch(ctx, batch).Close(); err != nil {
		return everyone[bool](len(hs), alonePossible(err, len(hs)))
	}
	answers := make([]answer[bool], len(hs))
	for i, h := range hs {
		answers[i].out = slices.Contains(opened, h.job) // of two jobs of one message, one
	}
	return answers
}
