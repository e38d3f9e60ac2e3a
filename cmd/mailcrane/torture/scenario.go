//go:build unix

package torture

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// allowance is how many copies of a message may leave beyond the first.
type allowance int

const (
	none      allowance = iota
	accounted           // one for each attempt whose outcome nobody knew
)

func (a allowance) String() string {
	if a == none {
		return "none"
	}
	return "one an unknown attempt"
}

// scenario is one way to fail, and what may come of it. Nothing may be lost, and
// nothing sent that was not committed, in any.
type scenario struct {
	number    int
	title     string
	copies    allowance
	within    time.Duration // after the end of the fault everything is sent
	ownServer bool          // it does things to PostgreSQL that nobody does to somebody else's
	smallDisk bool          // and to its disk
	least     int           // letters
	lanes     int           // daemons that send; 0: all
	habits    habits
	environ   []string // of the daemons
	run       func(context.Context, *round) error
}

// serially makes a daemon do one thing at a time: what is killed then is known.
var serially = []string{"MAILCRANE_WORKERS=1", "MAILCRANE_SMTP_MAX_MESSAGES=3"} //nolint:gochecknoglobals // a constant, if Go had them of slices

// scenarios lists the cases. The numbers are for --only, and stay.
func scenarios() []scenario {
	const soon, minute = 15 * time.Second, time.Minute
	return []scenario{
		{number: 1, title: "API killed in its transactions, answers to its commits cut off, clients repeat", within: soon, habits: habits{http: true}, run: cutTheAPI},
		{number: 2, title: "3 transactions in 10 roll back, and savepoints", within: soon, run: justWrite},
		{number: 3, title: "kill -9 after fetch, at EHLO, after RCPT, in the body", within: soon, environ: serially, run: killBeforeTheDot},
		{number: 4, title: "mails that cannot be rendered", within: 5 * time.Second, run: breakTemplates},
		{number: 5, title: "kill -9 after the dot, and after 250 before it is recorded", copies: accounted, within: soon, run: killAfterTheDot},
		{number: 6, title: "the same with the policy hold", within: soon, habits: habits{tenant: []string{holdTenant}}, run: killAfterTheDotOnHold},
		{number: 7, title: "connection reset after the dot", copies: accounted, within: minute, run: resetAfterTheDot},
		{number: 8, title: "dot answered after 5 to 300 seconds", within: 5 * minute, run: answerLate},
		{number: 9, title: "RSET and QUIT fail", within: soon, environ: []string{"MAILCRANE_SMTP_MAX_MESSAGES=5", "MAILCRANE_SMTP_IDLE_TIMEOUT=1s"}, run: failAfterwards},
		{number: 10, title: "4xx and 5xx at each phase, multi-line, 421, greylisting", within: minute, environ: []string{"MAILCRANE_SMTP_MAX_MESSAGES=5"}, run: refuse},
		{number: 11, title: "relay down 10 minutes, flapping, and both at once", copies: accounted, within: minute, run: relaysDown},
		{number: 12, title: "SIGSTOP for longer than the lease: anywhere, after open, after the handover", copies: accounted, within: soon, run: pause},
		{number: 13, title: "PostgreSQL killed, and down 5 minutes", within: 20 * time.Second, ownServer: true, run: killPostgreSQL},
		{number: 14, title: "answer to the outcome lost, and to a fetch for 20 seconds", within: 45 * time.Second, run: loseAnswers},
		{number: 16, title: "application with synchronous_commit off, PostgreSQL killed", within: 20 * time.Second, ownServer: true, habits: habits{loose: true}, run: killPostgreSQL},
		{number: 17, title: "daemon cut off from PostgreSQL for 60 seconds, not from its relay", copies: accounted, within: 20 * time.Second, run: partition},
		{number: 18, title: "clock of the database two hours off", within: soon, run: skewClocks},
		{number: 19, title: "rolling deploy, with jobs that the old program does not know", within: soon, run: deployNewKinds},
		{number: 20, title: "SIGTERM every 20 seconds", within: soon, run: restartRolling},
		{number: 21, title: "a message that daemons die of", within: minute, environ: serially, run: poison},
		{number: 22, title: "a copy of the database is started", within: soon, ownServer: true, run: startCopy},
		{number: 24, title: "disk full under PostgreSQL", within: 30 * time.Second, ownServer: true, smallDisk: true, run: fillDisk},
		{number: 25, title: "an operator deletes, cancels and retries jobs by SQL", within: minute, run: vandalise},
		{number: 26, title: "two faults at once", copies: accounted, within: minute, ownServer: true, run: twoAtOnce},
		{number: 27, title: "the only daemon killed three times, half of the mail with the policy hold", copies: accounted, within: 20 * time.Second,
			least: 300, lanes: 1, habits: habits{burst: true, tenant: []string{"default", holdTenant}}, run: killTheOnlyOne},
	}
}

// List prints the cases.
func List(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(table, "case\tfault\textra copies\trecovered within"); err != nil {
		return err
	}
	for _, c := range scenarios() {
		if _, err := fmt.Fprintf(table, "%d\t%s\t%s\t%s\n", c.number, c.title, c.copies, c.within); err != nil {
			return err
		}
	}
	return table.Flush()
}
