package outbox_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/idna"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
)

// Both spellings of a domain are one address, whichever is given where.
func TestAddress_hasOneSpelling(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	const ascii, unicode = "ada@xn--bcher-kva.example", "ada@bücher.example"
	if _, err := outbox.Suppress(t.Context(), pool, "", outbox.Suppression{Address: ascii}); err != nil {
		t.Fatal(err)
	}
	for i, address := range []string{ascii, unicode, "ada@XN--bcher-KVA.example", "ada@bu\u0308cher.example"} {
		receipt, err := outbox.Invite(t.Context(), pool, outbox.Invitation{GroupID: "g", Email: address})
		if err != nil {
			t.Fatal(err)
		}
		if want := []outbox.Result{outbox.Suppressed, outbox.Existing}[min(i, 1)]; receipt.Result != want {
			t.Errorf("%s: %s", address, receipt.Result)
		}
		if m, err := outbox.Enqueue(t.Context(), pool, outbox.Draft{Recipient: address, Template: "verify"}); err != nil || m.Result != outbox.Suppressed {
			t.Errorf("%s: %+v, %v", address, m, err)
		}
	}
	if err := outbox.Unsuppress(t.Context(), pool, "", unicode); err != nil {
		t.Error(err)
	}
}

// What Punycode makes of a domain comes back as it was, and what is none is left alone.
func TestAddress_readsPunycode(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	random := rand.New(rand.NewPCG(1, 2)) // the same every time
	alphabets := []string{"abcdefghij-0123äöüéßñ", "абвгдежзийклмнопрстуя", "あいうえおかきくけこ漢字仮名", "αβγδεζηθικλ", "אבגדהוזחטיכל", "𐐨𐐩𐐪a"}
	check := func(given, want string) {
		t.Helper()
		if got := value[string](t, pool, `SELECT mailcrane.normalize_address($1)`, "a@"+given); got != "a@"+want {
			t.Errorf("%s became %s instead of %s", given, got, want)
		}
	}
	for i := range 500 {
		letters := []rune(alphabets[i%len(alphabets)])
		var label strings.Builder
		for range 1 + random.IntN(12) {
			label.WriteRune(letters[random.IntN(len(letters))])
		}
		domain := "x" + label.String() + "y.example"
		encoded, err := idna.Punycode.ToASCII(domain)
		if err != nil {
			t.Fatal(domain, err)
		}
		if strings.HasPrefix(domain, "xn--") {
			continue
		}
		check(encoded, domain)
		check(domain, domain)
	}
	for _, odd := range []string{
		"xn--.example", "xn--a.example", "xn---.example", "xn--evil-.example", "xn--99999999.example", "xn--0ca24w!.example", "xn--" + strings.Repeat("9", 59) + ".example",
		"xn--" + strings.Repeat("a", 59) + ".example", "xn--a-.xn--", "xn--bcher-kva8.example",
	} {
		got := value[string](t, pool, `SELECT mailcrane.normalize_address($1)`, "a@"+odd)
		back, err := idna.Punycode.ToASCII(strings.TrimPrefix(got, "a@"))
		if got != "a@"+odd && (err != nil || back != odd) {
			t.Errorf("%s became %s, which is %s", odd, got, back)
		}
	}
}
