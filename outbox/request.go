package outbox

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ClaimRequest claims a key for a request, on the transaction that carries it out.
// hash is the SHA-256 of what is asked for. Where the same request was answered
// already, it gives that answer; otherwise the caller goes on, and ends with
// [AnswerRequest]. It waits for another transaction that has claimed the key.
//
// An [*InputError] means that the key was used for another request, or is none. Keys
// are kept for a day. An empty tenant is the default one.
func ClaimRequest(ctx context.Context, tx Tx, tenant, key string, hash []byte) (answer []byte, answered bool, err error) {
	answers, err := query(ctx, tx, pgx.RowTo[*string],
		`SELECT mailcrane.claim_request($1::text, $2::bytea, coalesce(nullif($3::text, ''), 'default'))::text`, key, hash, tenant)
	if err != nil {
		return nil, false, fmt.Errorf("claim request: %w", asInputError(err))
	}
	if answers[0] == nil {
		return nil, false, nil
	}
	return []byte(*answers[0]), true, nil
}

// AnswerRequest keeps the answer, a JSON document, to a request that was claimed on
// the same transaction.
func AnswerRequest(ctx context.Context, tx Tx, tenant, key string, answer []byte) error {
	_, err := query(ctx, tx, pgx.RowTo[*string],
		`SELECT mailcrane.answer_request($1::text, $2::text::jsonb, coalesce(nullif($3::text, ''), 'default'))::text`, key, string(answer), tenant)
	if err != nil {
		return fmt.Errorf("answer request: %w", err)
	}
	return nil
}
