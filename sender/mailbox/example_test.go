package mailbox_test

import (
	"context"
	"fmt"
	"net/smtp"
	"time"

	"github.com/mailcrane/mailcrane/sender/mailbox"
)

// A relay that does not know one of the recipients, and keeps the mail to the
// other. In a test, Start does what Listen and Close do here.
func ExampleListen() {
	box, err := mailbox.Listen(mailbox.Config{Faults: []mailbox.Fault{
		{At: mailbox.Rcpt, To: "nobody@", Reply: "550 5.1.1 no such user"},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer box.Close() //nolint:errcheck // the example is over

	mail := []byte("Subject: Join us\r\n\r\nHello Ada\r\n")
	for _, to := range []string{"nobody@example.com", "ada@example.com"} {
		if err := smtp.SendMail(box.Addr(), nil, "club@example.com", []string{to}, mail); err != nil {
			fmt.Println(to, "was refused:", err)
		}
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	mails, err := box.Wait(ctx, 1)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s got %q\n", mails[0].To[0], mails[0].Subject)

	// Output:
	// nobody@example.com was refused: 550 "5.1.1 no such user"
	// ada@example.com got "Join us"
}
