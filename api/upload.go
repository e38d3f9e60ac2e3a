package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

// maxBatch is how many invitations the database takes at a time.
const maxBatch = 1000

// read takes the items from the wire one by one, and refuses those that do not
// look like an invitation. Nothing is written before the body is complete.
func (b *batch) read(body io.Reader) error {
	d := json.NewDecoder(body)
	if err := expect(d, json.Delim('{')); err != nil {
		return err
	}
	if err := expect(d, "invitations"); err != nil {
		return err
	}
	if err := expect(d, json.Delim('[')); err != nil {
		return err
	}
	for d.More() {
		if len(b.results) == maxBatch {
			return newInputProblem(inputError{"body.invitations", fmt.Sprintf("has more than %d items: send them in several requests", maxBatch)})
		}
		var item json.RawMessage
		if err := d.Decode(&item); err != nil {
			return brokenDocument(err)
		}
		b.take(item)
	}
	for _, end := range []json.Delim{']', '}'} {
		if err := expect(d, end); err != nil {
			return err
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return brokenDocument(cmp.Or(err, errors.New("does not end where it should")))
	}
	if len(b.results) == 0 {
		return newInputProblem(inputError{"body.invitations", "is empty"})
	}
	return nil
}

// expect takes the next token.
func expect(d *json.Decoder, want json.Token) error {
	token, err := d.Token()
	if err != nil {
		return brokenDocument(err)
	}
	if token != want {
		return newInputProblem(inputError{"body", "is not of the form {\"invitations\": [{\"email\": …}, …]}"})
	}
	return nil
}

// brokenDocument says why no more could be read.
func brokenDocument(err error) *problem {
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge || errors.Is(err, os.ErrDeadlineExceeded) {
		return brokenBody(err)
	}
	p := newProblem(malformedBody)
	p.Errors = []inputError{{"body", plainError(err).Error()}}
	return p
}

// newItemRules are what huma checks an item against.
func newItemRules(registry huma.Registry) rules {
	return rules{registry, registry.Schema(reflect.TypeFor[batchItem](), true, "")}
}

// take reads an item as the body of a single invitation is read.
func (b *batch) take(document json.RawMessage) {
	place := len(b.results)
	b.results = append(b.results, batchResult{})
	var value any
	if err := readJSON(document, &value); err != nil {
		b.refuse(place, inputError{"body", err.Error()})
		return
	}
	found := &huma.ValidateResult{}
	huma.Validate(b.rules.registry, b.rules.schema, huma.NewPathBuffer([]byte("body"), len("body")), huma.ModeWriteToServer, value, found)
	for _, err := range found.Errors {
		if detail, ok := errors.AsType[*huma.ErrorDetail](err); ok {
			b.refuse(place, b.rules.detail(detail))
		}
	}
	if len(found.Errors) > 0 {
		return
	}
	var single inviteBody
	var item batchItem
	if err := cmp.Or(readJSON(document, &single), readJSON(document, &item)); err != nil {
		b.refuse(place, inputError{"body", err.Error()})
		return
	}
	b.waiting = append(b.waiting, placed{single.invitation(b.tenant, b.groupID, item.IdempotencyKey), place})
}
