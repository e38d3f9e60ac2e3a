// Package mailbox is an SMTP server that keeps what it gets in memory: the inbox
// of `mailcrane dev`, and the relay in tests.
//
// In tests it does on the wire what relays do on bad days: it refuses, delays,
// hangs and hangs up, at any phase of the dialogue, as its [Fault]s say:
//
//	box := mailbox.Start(t, mailbox.Config{Faults: []mailbox.Fault{
//		{At: mailbox.Rcpt, To: "nobody@", Reply: "550 5.1.1 no such user"},
//		{At: mailbox.Dot, Keep: true, Close: true, Times: 1}, // takes the mail, and dies before it says so
//	}})
//
// A mail is kept when its final dot has arrived and its answer is decided, never
// before: one that was cut off in the middle leaves nothing.
//
// [Server.Handler] shows the mails to people, at /inbox, and to programs, as JSON
// at /inbox/messages.
package mailbox
