package mailbox

import (
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Phase is a moment of the dialogue.
type Phase string

// The phases, in order.
const (
	Greeting Phase = "greeting"
	EHLO     Phase = "EHLO"
	StartTLS Phase = "STARTTLS"
	Auth     Phase = "AUTH"
	MailFrom Phase = "MAIL"
	Rcpt     Phase = "RCPT"
	Data     Phase = "DATA" // the command, before the server asks for the content
	Body     Phase = "body" // while the content comes in
	Dot      Phase = "dot"  // after the end of the content
	Rset     Phase = "RSET"
	Quit     Phase = "QUIT"
)

// Fault is something that goes wrong at one phase, with encryption or without.
type Fault struct {
	At    Phase
	To    string        // acts only if a recipient begins with this; from Rcpt on
	Reply string        // answered instead, such as "550 5.1.1 no such user"; \n makes it a multi-line reply
	Keep  bool          // at Dot: the mail is kept all the same
	Close bool          // the connection is closed, after the Reply if there is one
	Hang  bool          // no answer, until the client or the server gives up
	Delay time.Duration // passes before anything else happens
	Times int           // acts so many times only; 0 means always
	Do    func()        // called when it acts
}

// DemoFaults are those of `mailcrane dev`, chosen by the recipient: bounce…@ is
// refused, greylist…@ asked to come back once, slow…@ takes five seconds, and
// drop…@ is kept but never answered.
func DemoFaults() []Fault {
	return []Fault{
		{At: Rcpt, To: "bounce", Reply: "550 5.1.1 no such user here"},
		{At: Rcpt, To: "greylist", Reply: "451 4.7.1 greylisted, come back later", Times: oncePerRecipient},
		{At: Dot, To: "slow", Keep: true, Delay: 5 * time.Second, Reply: "250 2.0.0 taken at last"},
		{At: Dot, To: "drop", Keep: true, Close: true},
	}
}

// oncePerRecipient, as Times, lets a fault act once for each address.
const oncePerRecipient = -1

// faults keeps count of what acts how often.
type faults struct {
	mu   sync.Mutex
	list []*countedFault
	seen map[string]bool
}

type countedFault struct {
	Fault
	times int
}

func newFaults(list []Fault) *faults {
	f := &faults{seen: map[string]bool{}}
	for _, fault := range list {
		f.list = append(f.list, &countedFault{Fault: fault})
	}
	return f
}

// add puts a fault in front, until remove is called.
func (f *faults) add(fault Fault) (remove func()) {
	added := &countedFault{Fault: fault}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = slices.Insert(f.list, 0, added)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.list = slices.DeleteFunc(f.list, func(c *countedFault) bool { return c == added })
	}
}

// find gives the first fault that fits, and counts it.
func (f *faults) find(at Phase, recipients ...string) (Fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fault := range f.list {
		if fault.At == at && f.fits(fault, recipients) {
			fault.times++
			return fault.Fault, true
		}
	}
	return Fault{}, false
}

func (f *faults) fits(fault *countedFault, recipients []string) bool {
	if fault.Times > 0 && fault.times >= fault.Times {
		return false
	}
	if fault.To == "" {
		return true
	}
	for _, recipient := range recipients {
		if !strings.HasPrefix(strings.ToLower(recipient), strings.ToLower(fault.To)) {
			continue
		}
		if key := fault.To + " " + strings.ToLower(recipient); fault.Times == oncePerRecipient && f.seen[key] {
			continue
		} else if fault.Times == oncePerRecipient {
			f.seen[key] = true
		}
		return true
	}
	return false
}

// begin does what comes before any reply.
func (s *Server) begin(f Fault, c net.Conn) {
	if f.Do != nil {
		f.Do()
	}
	if f.Delay > 0 {
		s.pause(f.Delay)
	}
	if f.Hang {
		_, _ = io.Copy(io.Discard, c) // until somebody closes
		_ = c.Close()
	}
	if f.Close && f.Reply == "" {
		_ = c.Close()
	}
}

// act carries a fault out where the SMTP server lets us answer by an error. ok
// says that the dialogue goes on as if nothing had happened.
func (s *Server) act(f Fault, c net.Conn) (err error, ok bool) { //nolint:revive // the error is an answer, not a failure
	s.begin(f, c)
	switch {
	case f.Reply != "" && f.Close:
		_, _ = io.WriteString(c, wireReply(f.Reply))
		_ = c.Close()
		return errGone, false
	case f.Reply != "":
		return asSMTPError(f.Reply), false
	case f.Close || f.Hang:
		return errGone, false
	default:
		return nil, true
	}
}

// errGone is what the SMTP server gets for a connection that we have closed: it
// cannot say it to anybody.
var errGone = &smtp.SMTPError{Code: 421, EnhancedCode: smtp.EnhancedCode{4, 4, 2}, Message: "gone"}

// wireReply is a reply as it goes over the wire, line by line (RFC 5321 section
// 4.2.1).
func wireReply(reply string) string {
	code, text, _ := strings.Cut(reply, " ")
	lines := strings.Split(text, "\n")
	var b strings.Builder
	for i, line := range lines {
		separator := "-"
		if i == len(lines)-1 {
			separator = " "
		}
		b.WriteString(code + separator + line + "\r\n")
	}
	return b.String()
}

// asSMTPError is a reply as the SMTP server writes it, word for word: the
// enhanced code, if there is one, stays in the text.
func asSMTPError(reply string) *smtp.SMTPError {
	number, text, _ := strings.Cut(reply, " ")
	code, _ := strconv.Atoi(number) // a reply without a number is a mistake of the test, and shows as code 0
	return &smtp.SMTPError{Code: code, EnhancedCode: smtp.NoEnhancedCode, Message: text}
}
