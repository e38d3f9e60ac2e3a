package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mailcrane/mailcrane/outbox"
	"github.com/mailcrane/mailcrane/outbox/outboxtest"
	"github.com/mailcrane/mailcrane/sender/mailbox"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// blocks gives the fenced blocks of a language.
func blocks(text, language string) []string {
	var found []string
	for _, match := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(text, -1) {
		found = append(found, match[1])
	}
	return found
}

// What a DBA finds in the README works as it stands, and finds what it says.
func TestReadme_itsSQLAnswersItsQuestions(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	box := mailbox.Start(t, mailbox.Config{Faults: []mailbox.Fault{
		{At: mailbox.Rcpt, To: "bounce@", Reply: "550 5.1.1 no such user"},
		{At: mailbox.Rcpt, To: "busy@", Reply: "451 4.7.1 later"},
	}})
	startDaemon(t, settingsFor(pool, box, "MAILCRANE_RETRY_MIN=1h", "MAILCRANE_RETRY_MAX=1h"))
	statements := slices.DeleteFunc(blocks(readme(t), "sql"), func(block string) bool { return strings.HasPrefix(block, "GRANT") })
	if _, err := pool.Exec(t.Context(), statements[0]); err != nil { // the line that invites Ada
		t.Fatal(err)
	}
	waitForStatus(t, pool, invite(t, pool, "bounce@example.com"), outbox.StatusFailed)
	busy := invite(t, pool, "busy@example.com")
	waitFor(t, func() bool {
		m, err := outbox.GetMessage(t.Context(), pool, busy)
		return err == nil && len(m.Attempts) == 1
	}, "a deferred attempt")
	waitFor(t, func() bool {
		sent, err := outbox.ListMessages(t.Context(), pool, outbox.MessageFilter{Recipient: "ada@example.com", Status: outbox.StatusSent})
		return err == nil && len(sent) == 1
	}, "Ada's mail")

	for i, want := range map[int][]string{
		1: {"busy@example.com", "invitation"},
		2: {"bounce@example.com", "failed", "550 5.1.1 no such user"},
		3: {"invited", "message queued", "attempt 1 accepted", "message sent"},
		4: {"accepted", "rejected", "deferred", box.Addr()},
		5: {"true"},
		6: {"true"},
		8: {"transaction"}, // that of the question
		9: nil,
	} {
		rows, err := pool.Query(t.Context(), "SELECT row_to_json(answer)::text FROM ("+strings.TrimSuffix(strings.TrimSpace(statements[i]), ";")+") AS answer")
		if want == nil {
			rows, err = pool.Query(t.Context(), statements[i])
		}
		if err != nil {
			t.Fatalf("%s\n%v", statements[i], err)
		}
		var answer strings.Builder
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				t.Fatal(err)
			}
			answer.WriteString(line + "\n")
		}
		if rows.Err() != nil {
			t.Fatalf("%s\n%v", statements[i], rows.Err())
		}
		for _, text := range want {
			if !strings.Contains(answer.String(), text) {
				t.Errorf("no %q in the answer to\n%s\n%s", text, statements[i], answer.String())
			}
		}
	}
	// Another is the audit, which has nothing to say.
	var findings int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM ("+strings.TrimSuffix(strings.TrimSpace(statements[7]), ";")+") AS a").Scan(&findings); err != nil || findings != 0 {
		t.Errorf("the audit found %d things (%v)", findings, err)
	}
	if len(statements) != 10 {
		t.Errorf("%d statements in the README, 10 are tried here", len(statements))
	}
}

func TestReadme_itsGoIsThatOfTheExample(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile("../../outbox/example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	snippets := blocks(readme(t), "go")
	if len(snippets) != 1 {
		t.Fatalf("%d snippets", len(snippets))
	}
	lines := strings.Split(strings.TrimSpace(snippets[0]), "\n")
	if len(lines) != 12 {
		t.Errorf("the snippet has %d lines, want twelve", len(lines))
	}
	if !strings.Contains(string(example), "\t"+strings.Join(lines, "\n\t")+"\n") {
		t.Error("outbox/example_test.go does not hold the snippet")
	}
}

func TestReadme_namesEverySetting(t *testing.T) {
	t.Parallel()
	for _, s := range settings() {
		if !strings.Contains(readme(t), "`"+s.name+"`") {
			t.Errorf("%s is not in the README", s.name)
		}
		if s.initial != "" && !strings.Contains(readme(t), "`"+s.initial+"`") {
			t.Errorf("the default of %s is not in the README", s.name)
		}
	}
}

// The view in Python says to the database what it should.
func TestReadme_itsPythonInvites(t *testing.T) {
	t.Parallel()
	pool := outboxtest.Database(t)
	snippets := blocks(readme(t), "python")
	if len(snippets) != 3 {
		t.Fatalf("%d snippets", len(snippets))
	}
	statement := regexp.MustCompile(`"(SELECT [^"]*)"`).FindStringSubmatch(snippets[1])
	if statement == nil {
		t.Fatal("no statement")
	}
	query := statement[1]
	for _, value := range []string{"'42'", "'ada@example.com'", "'Engine'", "'Charles'"} {
		query = strings.Replace(query, "%s", value, 1)
	}
	var id, result string
	if err := pool.QueryRow(t.Context(), query).Scan(&id, &result); err != nil || id == "" || result != "created" {
		t.Errorf("%q, %q, %v", id, result, err)
	}
}
