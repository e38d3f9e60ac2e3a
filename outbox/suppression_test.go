package outbox_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

func TestSuppress_keepsAnAddressFromBeingWrittenTo(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for want := int64(1); want >= 0; want-- {
		created, err := outbox.Suppress(t.Context(), pool, "", outbox.Suppression{Address: " Ada@EXAMPLE.com ", Reason: "asked"})
		if err != nil || created != want {
			t.Errorf("%d, %v", created, err)
		}
	}
	invite := func(want outbox.Result) {
		t.Helper()
		receipt, err := outbox.Enqueue(t.Context(), pool, outbox.Draft{Recipient: "ada@example.com", Template: "receipt"})
		if err != nil || receipt.Result != want {
			t.Errorf("%+v, %v", receipt, err)
		}
	}
	invite(outbox.Suppressed)
	if err := outbox.Unsuppress(t.Context(), pool, "other", "ada@example.com"); !errors.Is(err, outbox.ErrNotFound) {
		t.Error(err)
	}
	if err := outbox.Unsuppress(t.Context(), pool, "", "ADA@example.com"); err != nil {
		t.Error(err)
	}
	invite(outbox.Created)
	for _, address := range []string{"", "ada@example.com", "\x00", "\xff"} {
		if err := outbox.Unsuppress(t.Context(), pool, "", address); !errors.Is(err, outbox.ErrNotFound) {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestSuppress_takesAllOrNone(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	for name, list := range map[string][]outbox.Suppression{
		"address": {{Address: "ada@example.com"}, {Address: "nobody"}},
		"reason":  {{Address: "ada@example.com"}, {Address: "bob@example.com", Reason: "a\nb"}},
		"source":  {{Address: "ada@example.com"}, {Address: "bob@example.com", Source: strings.Repeat("x", 101)}},
	} {
		_, err := outbox.Suppress(t.Context(), pool, "", list...)
		if input, ok := errors.AsType[*outbox.InputError](err); !ok || len(input.Problems) != 1 || input.Problems[0].Item != 1 || input.Problems[0].Field != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, odd := range []string{"\x00", "\xff"} {
		_, err := outbox.Suppress(t.Context(), pool, "", outbox.Suppression{Address: "ada@example.com"}, outbox.Suppression{Address: odd})
		if input, ok := errors.AsType[*outbox.InputError](err); !ok || input.Problems[0].Item != 1 {
			t.Errorf("%q: %v", odd, err)
		}
	}
	_, err := outbox.Suppress(t.Context(), pool, "", make([]outbox.Suppression, 300)...)
	if input, ok := errors.AsType[*outbox.InputError](err); !ok || len(input.Problems) != 100 {
		t.Error(err)
	}
	_, err = outbox.Suppress(t.Context(), pool, "", make([]outbox.Suppression, 50001)...)
	if input, ok := errors.AsType[*outbox.InputError](err); !ok || !strings.Contains(err.Error(), "50,000") {
		t.Errorf("%v, %v", input, err)
	}
	if n := value[int](t, pool, `SELECT count(*) FROM mailcrane.suppression`); n != 0 {
		t.Errorf("%d are written", n)
	}
	if created, err := outbox.Suppress(t.Context(), pool, ""); created != 0 || err != nil {
		t.Error(created, err)
	}
}

func TestListSuppressions_pageByPage(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	var list []outbox.Suppression
	for i := range 25 {
		list = append(list, outbox.Suppression{Address: fmt.Sprintf("u%02d@example.com", i), Reason: "bounced", Source: "bounce"})
	}
	if n, err := outbox.Suppress(t.Context(), pool, "", list...); n != 25 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := outbox.Suppress(t.Context(), pool, "other", outbox.Suppression{Address: "u00x@example.com"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for after := ""; ; {
		page, err := outbox.ListSuppressions(t.Context(), pool, outbox.SuppressionFilter{After: after, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, s := range page {
			if s.Reason != "bounced" || s.Source != "bounce" || s.CreatedAt.IsZero() {
				t.Errorf("%+v", s)
			}
			after = s.Address
			got = append(got, s.Address)
		}
	}
	if len(got) != 25 || got[0] != "u00@example.com" || got[24] != "u24@example.com" {
		t.Errorf("%q", got)
	}
}

func TestReadSuppressions_readsCSV(t *testing.T) {
	t.Parallel()
	list, err := outbox.ReadSuppressions(strings.NewReader("\ufeffReason, Address ,Extra\r\n\"asked, twice\",ada@example.com,1\r\n,bob@example.com,\r\n"))
	if err != nil || len(list) != 2 || list[0] != (outbox.Suppression{Address: "ada@example.com", Reason: "asked, twice"}) || list[1].Address != "bob@example.com" {
		t.Errorf("%+v, %v", list, err)
	}
	for text, want := range map[string]string{
		"": "is empty", "mail\nada@example.com\n": "no column address", "address\n\"ada": "line 2", "address,reason\nx\n": "line 2", "address\na\"b\n": "line 2",
	} {
		_, err := outbox.ReadSuppressions(strings.NewReader(text))
		if _, ok := errors.AsType[*outbox.InputError](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
