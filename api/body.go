package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// Limits of a request's body.
const (
	maxBody      = 64 << 10 // bytes
	maxBatchBody = 1 << 20  // bytes
	maxNesting   = 64       // objects and arrays in each other

	bodyTimeout      = 5 * time.Second
	largeBodyTimeout = 15 * time.Second // for more than maxBody
)

// limitBody bounds the size of the body of r, and the time it may take.
func limitBody(w http.ResponseWriter, r *http.Request, size int64) {
	timeout := bodyTimeout
	if size > maxBody {
		timeout = largeBodyTimeout
	}
	// Without deadlines, as with some wrapped connections, the server's apply.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(timeout))
	r.Body = http.MaxBytesReader(w, r.Body, size)
}

// readBody reads the body of r into memory, so that everything that can go
// wrong with it is answered here: huma counts a broken upload as its own fault.
func readBody(r *http.Request) *problem {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return brokenBody(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

// brokenBody says why a body could not be read to its end.
func brokenBody(err error) *problem {
	if limit, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return newProblem(bodyTooLarge).because(fmt.Sprintf("The body is larger than %d bytes. Nothing was written.", limit.Limit))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return newProblem(slowBody)
	}
	return newProblem(malformedBody).because("The body broke off before its end. Nothing was written.")
}

// isMedia says whether a body is text in UTF-8 of a media type that is fine.
//
// A body without a content type is not. Browsers send one to another site without
// asking it first; JSON and CSV make them ask.
func isMedia(contentType string, fine func(media string) bool) bool {
	mediaType, parameters, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	if charset := parameters["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return false
	}
	return fine(mediaType)
}

// isJSON accepts application/json and application/*+json.
func isJSON(media string) bool {
	return media == "application/json" || strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json")
}

// jsonFormat is JSON as this API reads it: strictly, and with errors that do
// not repeat what they are about.
func jsonFormat() huma.Format {
	return huma.Format{Marshal: writeJSON, Unmarshal: readJSON}
}

// readJSON decodes data into v, which is an *any when huma validates, and the
// body's own type after that.
func readJSON(data []byte, v any) error {
	if _, generic := v.(*any); generic {
		if err := checkDocument(data); err != nil {
			return err
		}
		return plainError(json.Unmarshal(data, v))
	}
	if err := checkNames(data, reflect.TypeOf(v).Elem()); err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber() // the numbers in "data" are not ours to round
	return plainError(decoder.Decode(v))
}

// decodeDocument decodes what is one document, whatever it says. It leaves numbers as
// they are written: ids have up to 19 digits, and two of them must not become one.
func decodeDocument(data []byte) (document any, err error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(&document); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, cmp.Or(err, errors.New("does not end where it should"))
	}
	return document, nil
}

// checkNames refuses names of fields in another case, which huma and
// encoding/json take for the fields themselves.
func checkNames(data []byte, body reflect.Type) error {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(data, &given); err != nil {
		return plainError(err)
	}
	for field := range body.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		for key := range given {
			if key != name && strings.EqualFold(key, name) {
				return fmt.Errorf("has the field %s, which must be written %s", key, name)
			}
		}
		if list := field.Type; list.Kind() == reflect.Slice && list.Elem().Kind() == reflect.Struct {
			var items []json.RawMessage
			_ = json.Unmarshal(given[name], &items) // huma has seen that it is a list of objects
			for _, item := range items {
				if err := checkNames(item, list.Elem()); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// checkDocument refuses what encoding/json puts up with: text that is not
// UTF-8, names that occur twice in an object, and very deep nesting.
func checkDocument(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("is not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	var open []*level
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil // what is cut off is left to Unmarshal
		}
		if err != nil {
			return plainError(err)
		}
		switch delimiter, _ := token.(json.Delim); {
		case delimiter == '}' || delimiter == ']':
			open = open[:len(open)-1]
			continue
		case len(open) > 0 && !open[len(open)-1].accept(token):
			return errors.New("has an object in which a name occurs twice")
		case delimiter == '{':
			open = append(open, &level{names: map[string]bool{}})
		case delimiter == '[':
			open = append(open, &level{})
		}
		if len(open) > maxNesting {
			return fmt.Errorf("is nested more than %d deep", maxNesting)
		}
	}
}

// level is an object or, without names, an array that [checkDocument] is in.
type level struct {
	names map[string]bool
	value bool // the next token of the object is a value
}

// accept takes the next token and says whether it is fine.
func (l *level) accept(token json.Token) bool {
	if l.names == nil {
		return true
	}
	isName := !l.value
	l.value = isName
	if !isName {
		return true
	}
	name, _ := token.(string)
	known := l.names[name]
	l.names[name] = true
	return !known
}

// plainError says what is wrong with a document without repeating any of it.
func plainError(err error) error {
	if err == nil {
		return nil
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("is not JSON, the mistake is at byte %d", syntax.Offset)
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
		return fmt.Errorf("has a value in %s that does not fit, such as a number with a fraction or an exponent", wrong.Field)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("is not JSON, it ends too early")
	}
	return errors.New("has a value that does not fit, such as a number out of range or a time that does not exist")
}
