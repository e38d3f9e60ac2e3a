// Package sender hands committed messages to the outside world. It holds the
// implementations of [outbox.Sender]; e-mail is the first.
//
// # The point of no return
//
// SMTP has one: the line with a single dot that ends the data (RFC 5321 section
// 4.1.1.4). Before it nothing has been handed over and every failure is safe to
// repeat; after it only the relay's answer tells, and if the answer is lost
// nobody can tell (RFC 1047). An [Email] therefore does things in this order:
//
//  1. render and build the whole message in memory,
//  2. take a connection, and offer MAIL, RCPT, DATA and every byte but the dot,
//  3. call handover, which records the attempt durably,
//  4. send the dot, and believe its answer and nothing else.
//
// Where the next message waits for a connection already, its MAIL, RCPT and DATA
// go out with the dot of the one before (RFC 2920 section 3.1). It takes over the
// connection when that dot is answered, and does the rest in the same order.
//
// Whatever fails before the dot closes the socket as it is: no QUIT, and no
// second dot by accident. Whatever RSET or QUIT say after an accepted message
// changes nothing.
//
// # Several relays
//
// One Send tries them in turn, by priority, and among equals those with the most
// room first. What is about the relay sends the message on to the next: it cannot
// be reached, refuses us ([ErrRefused]), hangs up, or asks for patience. What is
// about the message or its recipient does not, and once handover was called
// nothing does. "Relay access denied" is about the recipient if all relays say
// so, and about us if one relay says it ten times in a row, to recipients at five
// domains or more.
//
// After five failures in a row, or one refusal, a relay is left alone for a
// while; then one message at a time finds out whether it works again. While no
// relay can be used, and while a limit of messages is reached, Send tries
// nothing and returns an [*outbox.Unavailable].
//
// # Words
//
// The relay is the SMTP server that takes our mail, the next hop; a route is one
// relay with all that we know of it, such as its breaker, which keeps us from it
// while it does not work. A phase is how far the dialogue with it came. A failure
// is what ended the dialogue; classify turns it into an [outbox.Outcome], and is
// the place to look up who decides what. Its blame decides whether another relay
// may be tried.
//
// # Use
//
//	relays, err := sender.ParseRelays("smtp://user:password@mail.example.com")
//	templates, err := sender.LoadTemplates(os.DirFS("/etc/mailcrane/templates"))
//	email, err := sender.NewEmail(sender.EmailConfig{Relays: relays, From: "Club <club@example.com>", Templates: templates})
//	reply, err := email.Send(ctx, message, handover)
//	err = email.Close()
package sender
