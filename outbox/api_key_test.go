package outbox_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// A key that is revoked while it makes others has none left.
func TestRevokeAPIKey_findsWhatIsMadeAtTheSameMoment(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	parent, _, err := outbox.CreateAPIKey(t.Context(), pool, outbox.NewAPIKey{Name: "found"})
	if err != nil {
		t.Fatal(err)
	}
	const callers = 20
	wide := outboxtest.Connections(t, pool, callers)
	outboxtest.AtOnce(t, pool, `SELECT FROM mailcrane.api_key FOR UPDATE`, callers, func(i int) {
		if i == callers/2 {
			if err := outbox.RevokeAPIKey(t.Context(), wide, parent, true); err != nil {
				t.Error(err)
			}
			return
		}
		_, _, err := outbox.CreateAPIKey(t.Context(), wide, outbox.NewAPIKey{Name: fmt.Sprint("child ", i), ParentID: parent})
		if err != nil && !errors.Is(err, outbox.ErrInvalidKey) {
			t.Error(err)
		}
	})
	if valid := value[int](t, pool, `SELECT count(*) FROM mailcrane.api_key WHERE revoked_at IS NULL`); valid != 0 {
		t.Errorf("%d keys are valid", valid)
	}
}

func TestCreateAPIKey_wantsAValidParent(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	revoked, _, err := outbox.CreateAPIKey(t.Context(), pool, outbox.NewAPIKey{Name: "revoked"})
	if err != nil {
		t.Fatal(err)
	}
	if err := outbox.RevokeAPIKey(t.Context(), pool, revoked, false); err != nil {
		t.Fatal(err)
	}
	for _, parent := range []string{revoked, "01980a3c-52a4-7c3e-9d1f-6a0f6c9a7b21", "x", "\x00"} {
		if _, _, err := outbox.CreateAPIKey(t.Context(), pool, outbox.NewAPIKey{Name: "child", ParentID: parent}); !errors.Is(err, outbox.ErrInvalidKey) {
			t.Errorf("%q: %v", parent, err)
		}
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.api_key`); n != 1 {
		t.Errorf("%d keys", n)
	}
}
