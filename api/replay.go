package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"github.com/mailcrane/mailcrane/outbox"
)

// claim is a request with an Idempotency-Key.
type claim struct {
	key  string
	hash []byte // of what it asks for
	w    http.ResponseWriter
}

type (
	claimKey struct{}
	txKey    struct{}
)

// replayable says whether op can be asked for again under an Idempotency-Key. What
// only looks and what only removes need not, and an answer with a secret must not be
// kept.
func replayable(op *huma.Operation) bool {
	return op.Method == http.MethodPost && strings.HasSuffix(scopeOf(op), ":write") && op.Metadata[secretAnswer] == nil
}

// secretAnswer marks an operation whose answer has a secret that is stored nowhere.
const secretAnswer = "secret answer"

// claimOf reads the Idempotency-Key of a request, and the body, which with a key must
// be in memory. A key that cannot be obeyed is refused: who sends one relies on it.
func claimOf(op *huma.Operation, w http.ResponseWriter, r *http.Request) (*claim, *problem) {
	keys := r.Header.Values("Idempotency-Key")
	key := r.Header.Get("Idempotency-Key")
	switch {
	case len(keys) == 0:
		return nil, nil
	case op.Metadata[secretAnswer] != nil:
		return nil, newInputProblem(inputError{"header.Idempotency-Key", "is not for this: the answer has a secret that is not kept, and cannot be given twice"})
	case isOpen(op) || !replayable(op):
		return nil, nil
	case len(keys) > 1 || key == "":
		return nil, newInputProblem(inputError{"header.Idempotency-Key", "is not one key: it is empty, or there are several"})
	case !utf8.ValidString(key) || utf8.RuneCountInString(key) > 255:
		return nil, newInputProblem(inputError{"header.Idempotency-Key", "is not text in UTF-8 of at most 255 characters"})
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, brokenBody(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return &claim{key: key, hash: requestHash(op.OperationID, r.URL.RequestURI(), body), w: w}, nil
}

// requestHash is the same for requests that ask for the same. The order of names
// and the blanks in a document do not matter.
func requestHash(operation, uri string, body []byte) []byte {
	if document, err := decodeDocument(body); err == nil {
		if plain, err := json.Marshal(document); err == nil {
			body = plain
		}
	}
	hash := sha256.New()
	for _, part := range []string{operation, uri, string(body)} {
		_, _ = fmt.Fprintf(hash, "%d %s", len(part), part) // never fails
	}
	return hash.Sum(nil)
}

// once carries a request out and keeps its answer, in one transaction; or gives the
// answer that is kept. A request that is refused keeps nothing, and can be corrected.
func once[I, O any](ctx context.Context, s *server, c *claim, in *I, handler func(context.Context, *I) (*O, error)) (*O, error) {
	type result struct {
		out      *O
		replayed bool
	}
	done, err := detached(ctx, s.pool, func(ctx context.Context, db beginner) (r result, err error) {
		err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			answer, replayed, err := outbox.ClaimRequest(ctx, tx, tenantOf(ctx), c.key, c.hash)
			if err != nil {
				return err
			}
			if replayed {
				r = result{new(O), true}
				return json.Unmarshal(answer, r.out)
			}
			if r.out, err = handler(context.WithValue(ctx, txKey{}, tx), in); err != nil {
				return err
			}
			if answer, err = json.Marshal(r.out); err != nil {
				return err
			}
			return outbox.AnswerRequest(ctx, tx, tenantOf(ctx), c.key, answer)
		})
		return r, err
	})
	if err == nil && done.replayed {
		c.w.Header().Set("Idempotency-Replayed", "true")
	}
	return done.out, err
}

// db is what to read from: the transaction of the request, if it has one.
func (s *server) db(ctx context.Context) outbox.Tx {
	if tx, ok := ctx.Value(txKey{}).(pgx.Tx); ok {
		return tx
	}
	return s.pool
}

// describeReplay says what an operation makes of an Idempotency-Key.
func describeReplay(_ *huma.OpenAPI, op *huma.Operation) {
	switch {
	case isOpen(op) || op.Method == http.MethodGet:
		return
	case op.Metadata[secretAnswer] != nil:
		op.Description += " An Idempotency-Key is refused (422): the answer has a secret, which is not kept and cannot be given twice."
		return
	case op.Method == http.MethodDelete:
		op.Description += " An Idempotency-Key is not looked at: a second request finds nothing (404), and changes nothing."
		return
	case !replayable(op):
		op.Description += " An Idempotency-Key is not looked at: nothing is written."
		return
	}
	op.Parameters = slices.DeleteFunc(op.Parameters, func(p *huma.Param) bool { return p.Name == "Idempotency-Key" })
	longest := 255
	op.Parameters = append(op.Parameters, &huma.Param{
		Name: "Idempotency-Key", In: "header", Schema: &huma.Schema{Type: huma.TypeString, MaxLength: &longest}, Example: "0198-5f3e",
		Description: "A second request with the same key, within a day, gets the first one's answer, and writes nothing. " +
			"While the first is at work, the second waits. The same key with another request is refused.",
	})
	for status, response := range op.Responses {
		if status < "300" {
			describeHeader(response, "Idempotency-Replayed", "true: this is the answer that was given before.")
		}
	}
}
