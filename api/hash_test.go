package api

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// Two bodies have the same hash if and only if they are the same document.
func FuzzRequestHash(f *testing.F) {
	f.Add(`{"a":1,"b":[true,null,"x"]}`, `{ "b": [true, null, "\u0078"], "a": 1 }`)
	f.Add(`{"a":1}`, `{"a":1.0}`)
	f.Add(`{"a":9007199254740993}`, `{"a":9007199254740992}`)
	f.Add(`{"a":1}`, `{"a":1}{`)
	f.Add(`0`, `0}`)
	f.Add(`0}"`, `0}`)
	f.Add(`"a<b"`, `"a\u003cb"`)
	f.Add(``, `null`)
	f.Add(`x`, ` x`)
	f.Fuzz(func(t *testing.T, a, b string) {
		first, firstOK := document(a)
		second, secondOK := document(b)
		same := a == b
		if firstOK && secondOK {
			same = reflect.DeepEqual(first, second)
		}
		equal := bytes.Equal(requestHash("op", "/v1/x", []byte(a)), requestHash("op", "/v1/x", []byte(b)))
		if equal != same {
			t.Errorf("%q and %q: the same hash %t, the same document %t", a, b, equal, same)
		}
		for _, other := range [][]byte{
			requestHash("op", "/v1/y", []byte(a)), requestHash("other", "/v1/x", []byte(a)), requestHash("op", "/v1/", append([]byte("x"), a...)),
		} {
			if bytes.Equal(requestHash("op", "/v1/x", []byte(a)), other) {
				t.Errorf("%q: where it is sent does not count", a)
			}
		}
	})
}

// document is what a body says, if that is one document in JSON.
func document(body string) (value any, ok bool) {
	if !json.Valid([]byte(body)) {
		return nil, false
	}
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.UseNumber()
	return value, decoder.Decode(&value) == nil
}

func TestDecodeDocument_refusesWhatGoesOn(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "{", "{} {}", "{}x", "{}}", "[]]", "1 2"} {
		if _, err := decodeDocument([]byte(body)); err == nil {
			t.Errorf("%q is taken", body)
		}
	}
}
