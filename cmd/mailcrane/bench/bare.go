package bench

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The least that an outbox can do: a row of the application, and a row that says
// that something is to be sent, in tables that have nothing but a primary key.

func createBare(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `
		DROP SCHEMA IF EXISTS mailcrane_bench CASCADE; -- of a run that was killed
		CREATE SCHEMA mailcrane_bench;
		CREATE TABLE mailcrane_bench.invitation (
			id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
			group_id   text NOT NULL,
			email      text NOT NULL,
			created_at timestamptz NOT NULL DEFAULT now()
		);
		CREATE TABLE mailcrane_bench.message (
			id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
			invitation_id uuid NOT NULL,
			recipient     text NOT NULL,
			status        text NOT NULL DEFAULT 'queued',
			created_at    timestamptz NOT NULL DEFAULT now()
		)`)
	return err
}

func dropBare(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `DROP SCHEMA mailcrane_bench CASCADE`)
	return err
}

// insertBare is one statement, as that of [outbox.Invite] is, and so one round trip.
func insertBare(ctx context.Context, conn *pgx.Conn, number int) error {
	inv := order{}.invitation(number)
	tag, err := conn.Exec(ctx, `
		WITH written AS (
			INSERT INTO mailcrane_bench.invitation (group_id, email)
			VALUES ($1, $2)
			RETURNING id, email
		)
		INSERT INTO mailcrane_bench.message (invitation_id, recipient)
		SELECT w.id, w.email
		FROM written AS w`, inv.GroupID, inv.Email)
	if err == nil && tag.RowsAffected() != 1 {
		err = errors.New("nothing was inserted")
	}
	return err
}
