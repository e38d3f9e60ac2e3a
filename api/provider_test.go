package api

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mailcrane/mailcrane/outbox"
)

// A provider is data: this one has no line of code.
const pigeonPost = `{"pigeonpost": {
	"document": "envelope",
	"events": "flock.birds[]",
	"type": ["fate"],
	"subtype": ["cause"],
	"kinds": {"lost/hawk": "hard", "lost": "soft", "pelted": "complaint", "landed": ""},
	"recipients": ["lofts[]"],
	"address": ["keeper.mail", "mail"],
	"diagnostic": ["note", "cause"],
	"at": ["seen", "left"],
	"id": ["ring"],
	"message_id": ["scroll"]
}}`

func TestProvider_isData(t *testing.T) {
	t.Parallel()
	providers, err := readProviders([]byte(pigeonPost))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)
	birds := `{"flock":{"birds":[
		{"fate":"lost","cause":"hawk","ring":9007199254740993,"scroll":"<1@x>","left":1769850000,"lofts":[{"keeper":{"mail":"a@example.com"},"note":"feathers"},{"mail":"b@example.com"},{}]},
		{"fate":"lost","cause":"fog","mail":"c@example.com","seen":"2026-01-31T10:00:00+01:00"},
		{"fate":"pelted","mail":"d@example.com","ring":"r1"},
		{"fate":"landed","mail":"e@example.com"}, {"fate":"moulting","mail":"f@example.com"}, 7, null]}}`
	want := []outbox.Bounce{
		{Kind: outbox.HardBounce, Address: "a@example.com", Source: "pigeonpost", Diagnostic: "feathers", At: at, HeaderMessageID: "<1@x>", SourceID: "9007199254740993 hard a@example.com"},
		{Kind: outbox.HardBounce, Address: "b@example.com", Source: "pigeonpost", Diagnostic: "hawk", At: at, HeaderMessageID: "<1@x>", SourceID: "9007199254740993 hard b@example.com"},
		{Kind: outbox.SoftBounce, Address: "c@example.com", Source: "pigeonpost", Diagnostic: "fog", At: at},
		{Kind: outbox.Complaint, Address: "d@example.com", Source: "pigeonpost", SourceID: "r1 complaint"},
	}
	wrapped, err := writtenAsText(birds)
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{"plain": birds, "in an envelope": wrapped} {
		document, err := decodeReport([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		r := providers["pigeonpost"].read("pigeonpost", document)
		if diff := cmp.Diff(want, r.bounces, cmp.Comparer(time.Time.Equal)); diff != "" || r.ignored < 3 {
			t.Errorf("%s: %d ignored (-want +got):\n%s", name, r.ignored, diff)
		}
	}
}

func TestReadProviders_refusesWhatIsNone(t *testing.T) {
	t.Parallel()
	for _, document := range []string{"", "[]", `{"x":{"kinds":[]}}`} {
		if _, err := readProviders([]byte(document)); err == nil {
			t.Errorf("%q is taken", document)
		}
	}
}

func TestDecodeReport_refusesWhatGoesOn(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "{", "{} {}", "{}x", "1 2"} {
		if _, err := decodeReport([]byte(body)); err == nil {
			t.Errorf("%q is taken", body)
		}
	}
}

func writtenAsText(document string) (string, error) {
	body, err := json.Marshal(map[string]string{"envelope": document})
	return string(body), err
}
