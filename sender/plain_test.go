package sender

import (
	"fmt"
	"strings"
	"testing"
)

func requireAddress(t *testing.T, address string) {
	t.Helper()
	got, gotErr := asciiAddress(address)
	want, wantErr := referenceAddress(address)
	if got != want || fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
		t.Errorf("%q is %q %v, want %q %v", address, got, gotErr, want, wantErr)
	}
}

// What is said of a plain domain without asking is what IDNA says.
func TestASCIIAddress_isWhatIDNASays(t *testing.T) {
	t.Parallel()
	parts := []string{
		"a", "b1", "EXAMPLE", "example", "com", ".", "..", "-", "--", "---", "xn--", "xn--bcher-kva", "xn--a", "ab--c", "a-b", "1", "_", "ü", "ß",
		"例え", "٣", "א", " ", "\x00", "\xff", "@", "!", strings.Repeat("l", 62), strings.Repeat("m", 63), strings.Repeat("n", 64), "\u200d", "。", "a.b.c.d",
		strings.Repeat("abcdefghi.", 23),
	}
	for _, one := range parts {
		for _, two := range parts {
			for _, three := range parts {
				requireAddress(t, "ada@"+one+two+three)
			}
			requireAddress(t, one+two+"@example.com")
			requireAddress(t, one+"@"+two)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
}

// One recipient has one domain, however somebody would like to write it.
func TestASCIIAddress_refusesOtherSpellingsOfADomain(t *testing.T) {
	t.Parallel()
	for _, domain := range []string{"exam\u00adple.com", "ｅxample.com", "example。com", "example．com", "ⓔxample.com", "example\ufe0f.com", "bu\u0308cher.example",
		"boo\u212a.example", "boo\u212a.bücher.example"} {
		if got, err := asciiAddress("ada@" + domain); err == nil {
			t.Errorf("%q is taken for %s", domain, got)
		}
	}
	for domain, want := range map[string]string{"bücher.example": "xn--bcher-kva.example", "BÜCHER.Example": "xn--bcher-kva.example", "faß.example": "xn--fa-hia.example"} {
		if got, err := asciiAddress("ada@" + domain); err != nil || got != "ada@"+want {
			t.Errorf("%s: %q, %v", domain, got, err)
		}
	}
}

func FuzzASCIIAddress(f *testing.F) {
	for _, address := range []string{"ada@example.com", "a.b@x-y.z", "@", "a@b--c.d", "a@xn--a.b", "a@B.c", "a@1.2", "a@b.", ".a@b", "a@ü.de"} {
		f.Add(address)
	}
	f.Fuzz(requireAddress)
}

func requireLine(t *testing.T, s string) {
	t.Helper()
	if got, want := oneLine(s), referenceLine(s); got != want {
		t.Errorf("%q becomes %q, want %q", s, got, want)
	}
}

func TestOneLine_isTheSameAtOnceAndStepByStep(t *testing.T) {
	t.Parallel()
	for _, one := range pieces {
		for _, two := range pieces {
			requireLine(t, one+two)
			requireLine(t, one+" "+two)
		}
	}
	byChance(t, 20000, func(t *testing.T, choices []byte) { requireLine(t, string(choices)) })
}

func FuzzOneLine(f *testing.F) {
	for _, text := range pieces {
		f.Add(text)
	}
	f.Fuzz(requireLine)
}

// However a line is looked at, the same ones go out.
func TestCheckLines_isTheSameAtOnceAndStepByStep(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, s string) {
		t.Helper()
		if got, want := checkLines([]byte(s)), referenceCheck([]byte(s)); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
	for _, one := range pieces {
		for _, two := range pieces {
			check(t, "A: b\r\n"+one+"\r\n"+two)
			check(t, one+two+"\r\n")
		}
	}
	for length := 990; length < 1005; length++ {
		check(t, strings.Repeat("x", length)+"\r\n")
		check(t, "A: b\r\n"+strings.Repeat("x", length))
	}
	byChance(t, 5000, func(t *testing.T, choices []byte) {
		c := &chooser{bytes: choices}
		check(t, c.text()+c.text()+"\r\n"+string(choices))
	})
}
