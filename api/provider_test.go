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
	"id": ["ring/year", "ring"],
	"message_id": ["scrolls[by=Loft].text", "scroll"]
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
		{"fate":"pelted","mail":"d@example.com","ring":"r1","year":2026,"scrolls":[7,{"by":"hawk","text":"no"},{"by":"LOFT","text":"<2@x>"}]},
		{"fate":"landed","mail":"e@example.com"}, {"fate":"moulting","mail":"f@example.com"}, 7, null]}}`
	want := []outbox.Bounce{
		{Kind: outbox.HardBounce, Address: "a@example.com", Source: "pigeonpost", Diagnostic: "feathers", At: at, HeaderMessageID: "<1@x>", SourceID: "9007199254740993 hard a@example.com"},
		{Kind: outbox.HardBounce, Address: "b@example.com", Source: "pigeonpost", Diagnostic: "hawk", At: at, HeaderMessageID: "<1@x>", SourceID: "9007199254740993 hard b@example.com"},
		{Kind: outbox.SoftBounce, Address: "c@example.com", Source: "pigeonpost", Diagnostic: "fog", At: at},
		{Kind: outbox.Complaint, Address: "d@example.com", Source: "pigeonpost", HeaderMessageID: "<2@x>", SourceID: "r1/2026 complaint"},
	}
	wrapped, err := writtenAsText(birds)
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{"plain": birds, "in an envelope": wrapped} {
		document, err := decodeDocument([]byte(body))
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

func writtenAsText(document string) (string, error) {
	body, err := json.Marshal(map[string]string{"envelope": document})
	return string(body), err
}

// What the providers call their kinds, and what else they say.
func TestProviders_meanWhatTheySay(t *testing.T) {
	t.Parallel()
	providers, err := readProviders(providersDocument)
	if err != nil {
		t.Fatal(err)
	}
	mailgun := func(severity, reason string) string {
		return `{"event-data":{"event":"failed","severity":"` + severity + `","reason":"` + reason + `","recipient":"a@example.com","id":"x","timestamp":1769850000.25}}`
	}
	sendgrid := func(event string) string { return `[{"email":"a@example.com","sg_event_id":"x",` + event + `}]` }
	postmark := func(kind string) string {
		return `{"RecordType":"Bounce","Type":"` + kind + `","Email":"a@example.com","ID":"x"}`
	}
	for _, row := range []struct{ provider, body, want string }{
		{"mailgun", mailgun("permanent", "bounce"), "hard, x/1769850000.25 hard"},
		{"mailgun", mailgun("permanent", "hardfail"), "hard, x/1769850000.25 hard"},
		{"mailgun", mailgun("permanent", "suppress-bounce"), "hard, x/1769850000.25 hard"},
		{"mailgun", mailgun("permanent", "suppress-complaint"), "complaint, x/1769850000.25 complaint"},
		{"mailgun", mailgun("permanent", "suppress-unsubscribe"), "soft, x/1769850000.25 soft"},
		{"mailgun", mailgun("permanent", "generic"), "soft, x/1769850000.25 soft"},
		{"mailgun", mailgun("permanent", "espblock"), "soft, x/1769850000.25 soft"},
		{"mailgun", mailgun("permanent", "old"), "soft, x/1769850000.25 soft"},
		{"mailgun", mailgun("temporary", "bounce"), "soft, x/1769850000.25 soft"},
		{"mailgun", `{"event-data":{"event":"complained","recipient":"a@example.com","timestamp":1769850000.25}}`, "complaint, "},
		{"mailgun", `{"event-data":{"event":"unsubscribed","recipient":"a@example.com","id":"x"}}`, ""},
		{"sendgrid", sendgrid(`"event":"bounce","type":"bounce","reason":"550 5.1.1 unknown"`), "hard, x hard"},
		{"sendgrid", sendgrid(`"event":"bounce","type":"blocked","reason":"550 on a list"`), "soft, x soft"},
		{"sendgrid", sendgrid(`"event":"dropped","reason":"Bounced Address"`), "hard, x hard"},
		{"sendgrid", sendgrid(`"event":"dropped","reason":"Invalid"`), "hard, x hard"},
		{"sendgrid", sendgrid(`"event":"dropped","reason":"Spam Reporting Address"`), "complaint, x complaint"},
		{"sendgrid", sendgrid(`"event":"dropped","reason":"Unsubscribed Address"`), "soft, x soft"},
		{"sendgrid", sendgrid(`"event":"dropped","reason":"Recipient List over Package Quota"`), "soft, x soft"},
		{"sendgrid", sendgrid(`"event":"deferred","reason":"Bounced Address"`), ""},
		{"postmark", postmark("HardBounce"), "hard, x hard"},
		{"postmark", postmark("SpamNotification"), "soft, x soft"},
		{"postmark", postmark("SpamComplaint"), "complaint, x complaint"},
		{"postmark", postmark("Unsubscribe"), ""},
	} {
		document, err := decodeDocument([]byte(row.body))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, b := range providers[row.provider].read(row.provider, document).bounces {
			got = string(b.Kind) + ", " + b.SourceID
		}
		if got != row.want {
			t.Errorf("%s: %s is %q, want %q", row.provider, row.body, got, row.want)
		}
	}
}
