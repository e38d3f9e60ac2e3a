package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const (
	mailOf1 = "MAIL FROM:<a@bench.example> SIZE=12\r\nRCPT TO:<u1@bench.example>\r\nDATA\r\n"
	// Lines with nothing but dots, a dot in the middle, line ends that are none, and
	// a field in the text that looks like one of the header.
	textOf1 = "Subject: x\r\nMessage-ID: <1@bench.example>\r\n\r\n..\r\n...\r\na.\r\n\n.\n\r.\r\r\n..x\r\nMessage-ID: <no>\r\n.\r\n"
	mailOf2 = "mail from:<a@bench.example>\r\nrcpt to:<u22@bench.example>\r\ndata\r\n"
	textOf2 = "message-id:<2@bench.example>\r\n\r\n.\r\n"
	whole   = "EHLO me\r\n" + mailOf1 + textOf1 + mailOf2 + textOf2 + "RSET\r\nNOOP\r\nQUIT\r\n"
)

// codes are the replies that the whole of it gets.
const codes = "220 250 250 250 354 250 250 250 354 250 250 250 221"

// newTestSink is one that nobody connects to but by hand.
func newTestSink(t *testing.T, config SinkConfig) *Sink {
	t.Helper()
	s, err := newSink(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// counting counts the writes of the sink.
type counting struct {
	net.Conn
	writes int
}

func (c *counting) Write(p []byte) (int, error) {
	c.writes++
	return c.Conn.Write(p)
}

// talk sends pieces, each in a packet of its own, and gives the codes of all
// replies, the replies as they came and the number of writes that brought them.
func talk(t *testing.T, s *Sink, pieces ...string) (replied, raw string, writes int) {
	t.Helper()
	client, server := net.Pipe()
	conn := &counting{Conn: server}
	var talking sync.WaitGroup
	talking.Go(func() {
		newSession(s, conn).serve()
		_ = server.Close()
	})
	var answers []byte
	talking.Go(func() { answers, _ = io.ReadAll(client) })
	for _, piece := range pieces {
		if _, err := io.WriteString(client, piece); err != nil {
			t.Errorf("write %q: %v", piece, err)
		}
	}
	talking.Wait()
	_ = client.Close()
	var all []string
	for line := range strings.Lines(string(answers)) {
		if line[3] != '-' {
			all = append(all, line[:3])
		}
	}
	return strings.Join(all, " "), string(answers), conn.writes
}

// requireBoth fails unless both mails of the whole have come.
func requireBoth(t *testing.T, s *Sink) {
	t.Helper()
	count := s.soFar()
	if count.Mails != 2 || count.Unique != 2 || count.Duplicates != 0 || count.Nameless != 0 {
		t.Errorf("%+v", count)
	}
	arrivals := s.arrivals()
	if len(arrivals) != 2 || arrivals[0].Number != 1 || arrivals[1].Number != 22 || arrivals[0].At > arrivals[1].At {
		t.Errorf("arrivals %v", arrivals)
	}
}

func TestSink_readsWhateverPiecesComeIn(t *testing.T) {
	t.Parallel()
	try := func(name string, pieces ...string) {
		s := newTestSink(t, SinkConfig{})
		if got, _, _ := talk(t, s, pieces...); got != codes {
			t.Errorf("%s: replies %s", name, got)
		}
		requireBoth(t, s)
	}
	try("at once", whole)
	try("byte by byte", strings.Split(whole, "")...)
	for at := 1; at < len(whole); at++ {
		try(fmt.Sprintf("cut at %d", at), whole[:at], whole[at:])
		if at+3 < len(whole) {
			try(fmt.Sprintf("three bytes alone at %d", at), whole[:at], whole[at:at+3], whole[at+3:])
		}
	}
}

func TestSink_answersAPacketInOneWrite(t *testing.T) {
	t.Parallel()
	s := newTestSink(t, SinkConfig{})
	// The second mail's commands come behind the first one's dot.
	got, raw, writes := talk(t, s, "EHLO me\r\n", mailOf1, textOf1+mailOf2, textOf2, "QUIT\r\n")
	if got != "220 250 250 250 354 250 250 250 354 250 221" || writes != 6 {
		t.Errorf("%d writes, replies %s", writes, got)
	}
	for _, extension := range []string{"PIPELINING", "8BITMIME", "SIZE"} {
		if !strings.Contains(raw, extension) {
			t.Errorf("%s is not offered in %q", extension, raw)
		}
	}
	requireBoth(t, s)
}

func TestSink_allocatesNothingForAMail(t *testing.T) {
	s := newTestSink(t, SinkConfig{})
	c := newSession(s, nil)
	c.out = make([]byte, 0, 1<<20)
	mail := []byte(mailOf2 + textOf2)
	allocated := testing.AllocsPerRun(1000, func() {
		c.out = c.out[:0]
		c.begin, c.end = 0, copy(c.buffer, mail)
		for c.step() {
		}
	})
	if allocated > 0 { // the list of arrivals grows now and then, which is less than one on average
		t.Errorf("%.1f allocations", allocated)
	}
}

func TestSink_refusesWhatIsOutOfOrder(t *testing.T) {
	t.Parallel()
	s := newTestSink(t, SinkConfig{})
	got, _, _ := talk(t, s, "RCPT TO:<u1@x>\r\nMAIL FROM:<>\r\nDATA\r\nVRFY x\r\n\r\nQUIT\r\n")
	if got != "220 503 250 503 502 502 221" {
		t.Errorf("replies %s", got)
	}
	if got, _, _ := talk(t, s, strings.Repeat("x", inputSize)); got != "220 500" {
		t.Errorf("a line without an end: replies %s", got)
	}
	if s.soFar().Mails != 0 {
		t.Errorf("%+v", s.soFar())
	}
}

func TestSink_noticesMailsThatComeTwice(t *testing.T) {
	t.Parallel()
	s := newTestSink(t, SinkConfig{})
	nameless := mailOf2 + "Subject: x\r\n\r\nMessage-ID: <3@x>\r\n.\r\n"
	talk(t, s, "EHLO me\r\n"+mailOf1+textOf1+mailOf2+textOf2+mailOf1+textOf1+nameless+"QUIT\r\n")
	count := s.soFar()
	if count.Mails != 4 || count.Unique != 2 || count.Duplicates != 1 || count.Nameless != 1 || !slices.Equal(count.Examples, []string{"<1@bench.example>"}) {
		t.Errorf("%+v", count)
	}
}

func TestSink_losesAndRepeatsWhatItIsToldTo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		config SinkConfig
		want   Count
	}{
		{SinkConfig{Lose: 2}, Count{Mails: 1, Unique: 1}},
		{SinkConfig{Repeat: 1}, Count{Mails: 3, Unique: 2, Duplicates: 1}},
	} {
		s := newTestSink(t, c.config)
		talk(t, s, whole)
		if got := s.soFar(); got.Mails != c.want.Mails || got.Unique != c.want.Unique || got.Duplicates != c.want.Duplicates {
			t.Errorf("%+v: %+v", c.config, got)
		}
	}
}

// inTurn sends each piece when all replies to those before have come.
func inTurn(t *testing.T, s *Sink, pieces ...string) (writes int) {
	t.Helper()
	client, server := net.Pipe()
	conn := &counting{Conn: server}
	var talking sync.WaitGroup
	talking.Go(func() { newSession(s, conn).serve() })
	replies := bufio.NewReader(client)
	await := func(n int) {
		for n > 0 {
			line, err := replies.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if line[3] != '-' {
				n--
			}
		}
	}
	await(1)
	for _, piece := range pieces {
		if _, err := io.WriteString(client, piece); err != nil {
			t.Fatal(err)
		}
		await(len(regexp.MustCompile(`(?mi)^(EHLO|MAIL|RCPT|DATA|QUIT|\.\r$)`).FindAllString(piece, -1)))
	}
	talking.Wait()
	if err := errors.Join(client.Close(), server.Close()); err != nil {
		t.Error(err)
	}
	return conn.writes
}

// The clock is not the real one, so these take no time, and are exact.
func TestSink_isAsSlowAsItIsToldTo(t *testing.T) {
	t.Parallel()
	pieces := []string{"EHLO me\r\n", mailOf1, textOf1 + mailOf2, textOf2, "QUIT\r\n"}
	for name, c := range map[string]struct {
		config SinkConfig
		want   time.Duration
		writes int
	}{
		"at once":               {SinkConfig{}, 0, 6},
		"every reply":           {SinkConfig{ReplyDelay: 10 * time.Millisecond}, 110 * time.Millisecond, 11},
		"far away":              {SinkConfig{RTT: time.Second}, 6 * time.Second, 6}, // the handshake, and five packets of commands
		"far away, and patient": {SinkConfig{RTT: time.Second, ReplyDelay: time.Millisecond}, 6011 * time.Millisecond, 11},
	} {
		s := newTestSink(t, c.config)
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			writes := inTurn(t, s, pieces...)
			if took := time.Since(began); took != c.want || writes != c.writes {
				t.Errorf("%s: it took %s and %d writes, want %s and %d", name, took, writes, c.want, c.writes)
			}
		})
		requireBoth(t, s)
	}
}

// However far away, what is sent without waiting for replies arrives together.
func TestSink_lookingLaterHoldsNothingUp(t *testing.T) {
	t.Parallel()
	s := newTestSink(t, SinkConfig{RTT: time.Second})
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if got, _, _ := talk(t, s, strings.SplitAfter(whole, "\n")...); got != codes {
			t.Errorf("replies %s", got)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %s", took)
		}
	})
	requireBoth(t, s)
}

func TestSink_flushesMailsToItsJournal(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mails")
	s := newTestSink(t, SinkConfig{Journal: path})
	var talking sync.WaitGroup
	const clients = 8
	for range clients {
		talking.Go(func() { talk(t, s, whole) })
	}
	talking.Wait()
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(kept, []byte(textOf1)) != clients || len(kept) != clients*(len(textOf1)+len(textOf2)) {
		t.Errorf("%d bytes in the journal", len(kept))
	}
}

// The finder agrees with a search in the whole, however the whole is cut.
func TestDotFinder_findsTheEndInAnyPieces(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		text := make([]byte, 1+random.IntN(30))
		for i := range text {
			text[i] = "\r\n.x"[random.IntN(4)]
		}
		want := bytes.Index(append([]byte("\r\n"), text...), []byte(endOfMail))
		d, rest, length, found := newDotFinder(), text, 0, false
		for len(rest) > 0 && !found {
			piece := rest[:1+random.IntN(len(rest))]
			var n int
			n, found = d.find(piece)
			if !found && n != len(piece) {
				t.Fatalf("%q: %d of %d bytes belong to a mail that goes on", text, n, len(piece))
			}
			length += n
			rest = rest[len(piece):]
		}
		if found != (want >= 0) || found && length != want+len(endOfMail)-2 {
			t.Fatalf("%q: found %t after %d bytes, want %d", text, found, length, want)
		}
	}
}

func TestServeSink_answersLineByLine(t *testing.T) {
	t.Parallel()
	in, questions := io.Pipe()
	answers, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- ServeSink(t.Context(), SinkConfig{}, in, out) }()
	read := func() string {
		t.Helper()
		buffer := make([]byte, 1000)
		n, err := answers.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
	if line := read(); !strings.HasPrefix(line, `{"address":"127.0.0.1:`) {
		t.Errorf("greeting %q", line)
	}
	for question, want := range map[string]string{"count": `{"mails":0,`, "arrivals": "[]\n"} {
		if _, err := io.WriteString(questions, question+"\n"); err != nil {
			t.Fatal(err)
		}
		if line := read(); !strings.HasPrefix(line, want) {
			t.Errorf("%s: %q", question, line)
		}
	}
	if err := questions.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
