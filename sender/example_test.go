package sender_test

import (
	"context"
	"fmt"
	"testing/fstest"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/sender"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// A message goes to a relay, here the mailbox, after its attempt was recorded.
func ExampleEmail_Send() {
	box, err := mailbox.Listen(mailbox.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = box.Close() }()
	relays, err := sender.ParseRelays("smtp://" + box.Addr() + "?tls=none")
	if err != nil {
		fmt.Println(err)
		return
	}
	email, err := sender.NewEmail(sender.EmailConfig{Relays: relays, From: "Engine Club <club@example.com>"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = email.Close() }()

	message := &outbox.Message{
		Template:        "verify",
		Locale:          "de-AT",
		Recipient:       "ada@example.com",
		HeaderMessageID: "1@example.com",
		Date:            time.Date(2026, 11, 23, 13, 0, 0, 0, time.UTC),
		Data:            map[string]any{"data": map[string]any{"link": "https://app.example.com/verify/1", "app_name": "Engine"}},
	}
	handover := func(context.Context, string) error {
		fmt.Println("recorded")
		return nil
	}
	reply, err := email.Send(context.Background(), message, handover)
	fmt.Println(reply.Code, outbox.OutcomeOf(err))
	fmt.Println(box.Mails("ada@example.com")[0].Subject)
	// Output:
	// recorded
	// 250 accepted
	// Bitte bestätigen Sie Ihre E-Mail-Adresse für Engine
}

// A file of one's own replaces the embedded one of the same name.
func ExampleLoadTemplates() {
	_, err := sender.LoadTemplates(fstest.MapFS{
		"en/invitation.subject": {Data: []byte("{{.inviter_name}} wants you in {{.grup_name}}")},
	})
	fmt.Println(err)
	// Output:
	// templates: en/invitation.subject:1:33: there is no value .grup_name; there are .data .locale .recipient .group_id .group_name .email .inviter_id .inviter_name .link .expires_at
}

// The mistakes of a URL are all reported, and its password never.
func ExampleParseRelay() {
	relay, err := sender.ParseRelay("smtp://user:secret@mail.example.com")
	fmt.Println(relay, err)
	_, err = sender.ParseRelay("smtp://user:secret@mail.example.com:0?tls=maybe")
	fmt.Println(err)
	// Output:
	// smtp://***@mail.example.com:587 <nil>
	// relay URL: tls must be starttls or none
	// relay URL: the port must be 1 to 65535
}
