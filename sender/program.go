package sender

import (
	"strconv"
	"time"

	"github.com/mailcrane/mailcrane/outbox"
)

// program is a template that uses only what most templates of mails do: values,
// if, with, or, index by a name, and date. It gives what the library's Execute
// gives, without reflection and without a copy of the data.
//
// Where it is not sure, it gives up, and Execute has the word: what to print for a
// list, how to escape an odd link, whether something is an error and which.
type program struct {
	nodes  []node
	date   func(any) (string, error)
	framed bool // its text begins and ends with words of the template
}

// node is one step of a program.
type node struct {
	kind   nodeKind
	text   string   // of nodeText
	fixed  fixed    // of nodeText, in a program that is framed: without the space around the whole
	value  expr     // of the others
	escape *escaper // of a nodeValue; nil: as it is
	then   []node
	or     []node
}

type nodeKind int

const (
	nodeText nodeKind = iota
	nodeValue
	nodeIf
	nodeWith
)

// expr is something that has a value.
type expr struct {
	kind exprKind
	path []string // of exprDot and exprRoot: names to follow from there
	text any      // of exprText: a string
	name string   // of exprIndex
	args []expr   // of the functions
}

type exprKind int

const (
	exprDot exprKind = iota
	exprRoot
	exprText
	exprOr
	exprIndex
	exprDate
)

// root is the dot at the beginning.
type root struct{}

// run is one execution of a program.
type run struct {
	*program
	m      *outbox.Message
	locale string
	out    []byte
	body   *quoter // where out goes after each value; nil: nowhere
}

// append appends the text of m to dst. It reports whether it could; if not, what
// it appended is of no use.
func (p *program) append(dst []byte, m *outbox.Message, locale string) (out []byte, ok bool) {
	r := run{program: p, m: m, locale: locale, out: dst}
	ok = r.try()
	return r.out, ok
}

// quote writes the text of m to q, without the space around it and with a line
// end. It is for programs that are framed. It reports whether it could.
func (p *program) quote(q *quoter, scratch []byte, m *outbox.Message, locale string) (out []byte, ok bool) {
	r := run{program: p, m: m, locale: locale, out: scratch[:0], body: q}
	ok = r.try()
	q.closeLine()
	return r.out, ok
}

// try leaves it to Execute to panic.
func (r *run) try() (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return r.list(r.nodes, root{})
}

func (r *run) list(nodes []node, dot any) bool {
	for i := range nodes {
		if !r.node(&nodes[i], dot) {
			return false
		}
	}
	return true
}

func (r *run) node(n *node, dot any) bool {
	if n.kind == nodeText {
		r.text(n)
		return true
	}
	value, ok := r.eval(&n.value, dot)
	if !ok {
		return false
	}
	if n.kind == nodeValue {
		return r.print(value, n.escape)
	}
	yes, ok := truth(value)
	switch {
	case !ok:
		return false
	case !yes:
		return r.list(n.or, dot)
	case n.kind == nodeWith:
		return r.list(n.then, value)
	default:
		return r.list(n.then, dot)
	}
}

func (r *run) text(n *node) {
	if r.body != nil {
		r.body.writeFixed(&n.fixed)
		return
	}
	r.out = append(r.out, n.text...)
}

// eval gives the value of x. Only an index that finds nothing is nil.
func (r *run) eval(x *expr, dot any) (value any, ok bool) {
	switch x.kind {
	case exprText:
		return x.text, true
	case exprOr:
		for i := range x.args {
			value, ok = r.eval(&x.args[i], dot)
			if !ok {
				return nil, false
			}
			if yes, known := truth(value); !known || yes {
				return value, known
			}
		}
		return value, true
	case exprIndex:
		if value, ok = r.eval(&x.args[0], dot); ok {
			value, ok = r.member(value, x.name)
		}
		return value, ok
	case exprDate:
		return r.formatDate(&x.args[0], dot)
	case exprRoot:
		value = root{}
	default:
		value = dot
	}
	for _, name := range x.path {
		if value, ok = r.member(value, name); !ok || value == nil {
			return nil, false // a value that is missing is an error
		}
	}
	return value, true
}

// member looks a value up where [values] would put it. It is nil if it is missing,
// or null, and not ok if v has no members.
func (r *run) member(v any, name string) (value any, ok bool) {
	switch v := v.(type) {
	case map[string]any:
		return v[name], true
	case root:
		switch name {
		case "recipient":
			return r.m.Recipient, true
		case "locale":
			return r.locale, true
		case "data":
			data, _ := r.m.Data["data"].(map[string]any)
			return data, true
		default:
			return r.m.Data[name], true
		}
	default:
		return nil, false
	}
}

func (r *run) formatDate(x *expr, dot any) (value any, ok bool) {
	value, ok = r.eval(x, dot)
	if !ok {
		return nil, false
	}
	switch value.(type) {
	case string, time.Time:
		text, err := r.date(value)
		return text, err == nil
	default:
		return nil, false
	}
}

// truth says whether if and with take v for true.
func truth(v any) (yes, ok bool) {
	switch v := v.(type) {
	case nil:
		return false, true
	case string:
		return v != "", true
	case bool:
		return v, true
	case float64:
		return v != 0, true
	case map[string]any:
		for _, member := range v {
			if member != nil {
				return true, true
			}
		}
		return false, true
	default:
		return false, false
	}
}

// print appends a value that has an obvious form.
func (r *run) print(v any, escape *escaper) (ok bool) {
	var text string
	switch v := v.(type) {
	case string:
		text = v
	case bool:
		text = strconv.FormatBool(v)
	case float64:
		if !isWhole(v) {
			return false
		}
		text = strconv.FormatInt(int64(v), 10)
	default:
		return false
	}
	if escape == nil {
		r.out = append(r.out, text...)
	} else if r.out, ok = escape.append(r.out, text); !ok {
		return false
	}
	if r.body != nil {
		r.body.write(r.out)
		r.out = r.out[:0]
	}
	return true
}
