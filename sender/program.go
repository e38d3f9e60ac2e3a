package sender

import (
	"strconv"
	"strings"
	"text/template/parse"
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
	nodes []node
	date  func(any) (string, error)
}

// node is one step of a program.
type node struct {
	kind   nodeKind
	text   string   // of nodeText
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
}

// append appends the text of m to dst. It reports whether it could; if not, what
// it appended is of no use.
func (p *program) append(dst []byte, m *outbox.Message, locale string) (out []byte, ok bool) {
	r := run{program: p, m: m, locale: locale, out: dst}
	ok = r.list(p.nodes, root{})
	return r.out, ok
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
		r.out = append(r.out, n.text...)
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
		return true
	}
	r.out, ok = escape.append(r.out, text)
	return ok
}

// compiler translates a parsed template, which has already been escaped if it is
// HTML.
type compiler struct {
	html     bool
	escapers escapers
}

// compile gives the program of a template, or nil if it uses more than a program
// can do.
func (c compiler) compile(tree *parse.Tree, date func(any) (string, error)) *program {
	if tree == nil || tree.Root == nil {
		return nil
	}
	nodes, ok := c.list(tree.Root)
	if !ok {
		return nil
	}
	return &program{nodes: nodes, date: date}
}

func (c compiler) list(list *parse.ListNode) (nodes []node, ok bool) {
	if list == nil {
		return nil, true
	}
	for _, n := range list.Nodes {
		compiled, ok := c.node(n)
		if !ok {
			return nil, false
		}
		nodes = append(nodes, compiled)
	}
	return nodes, true
}

func (c compiler) node(n parse.Node) (compiled node, ok bool) {
	switch n := n.(type) {
	case *parse.TextNode:
		return node{kind: nodeText, text: string(n.Text)}, true
	case *parse.ActionNode:
		return c.action(n.Pipe)
	case *parse.IfNode:
		return c.branch(nodeIf, &n.BranchNode)
	case *parse.WithNode:
		return c.branch(nodeWith, &n.BranchNode)
	default:
		return node{}, false
	}
}

func (c compiler) branch(kind nodeKind, n *parse.BranchNode) (compiled node, ok bool) {
	value, rest, ok := pipe(n.Pipe)
	then, ok1 := c.list(n.List)
	or, ok2 := c.list(n.ElseList)
	return node{kind: kind, value: value, then: then, or: or}, ok && ok1 && ok2 && len(rest) == 0
}

func (c compiler) action(p *parse.PipeNode) (compiled node, ok bool) {
	value, rest, ok := pipe(p)
	if !ok || !c.html {
		return node{kind: nodeValue, value: value}, ok && len(rest) == 0
	}
	escape := c.escapers.of(commandNames(rest))
	return node{kind: nodeValue, value: value, escape: escape}, escape != nil
}

// pipe translates a pipeline up to the first function that is not ours.
func pipe(p *parse.PipeNode) (value expr, rest []*parse.CommandNode, ok bool) {
	if len(p.Decl) > 0 {
		return expr{}, nil, false
	}
	value, ok = command(p.Cmds[0])
	rest = p.Cmds[1:]
	for ok && len(rest) > 0 && commandNames(rest[:1]) == "date" {
		value, rest = expr{kind: exprDate, args: []expr{value}}, rest[1:]
	}
	return value, rest, ok
}

func command(n *parse.CommandNode) (x expr, ok bool) {
	name, ok := n.Args[0].(*parse.IdentifierNode)
	if !ok {
		x, ok = operand(n.Args[0])
		return x, ok && len(n.Args) == 1
	}
	var args []expr
	for _, arg := range n.Args[1:] {
		x, ok := operand(arg)
		if !ok {
			return expr{}, false
		}
		args = append(args, x)
	}
	switch {
	case name.Ident == "date" && len(args) == 1:
		return expr{kind: exprDate, args: args}, true
	case name.Ident == "or" && len(args) > 0:
		return expr{kind: exprOr, args: args}, true
	case name.Ident == "index" && len(args) == 2 && args[1].kind == exprText:
		key, _ := args[1].text.(string)
		return expr{kind: exprIndex, args: args[:1], name: key}, true
	default:
		return expr{}, false
	}
}

// operand translates what can be an argument.
func operand(n parse.Node) (x expr, ok bool) {
	switch n := n.(type) {
	case *parse.DotNode:
		return expr{kind: exprDot}, true
	case *parse.FieldNode:
		return expr{kind: exprDot, path: n.Ident}, true
	case *parse.VariableNode:
		return expr{kind: exprRoot, path: n.Ident[1:]}, n.Ident[0] == "$"
	case *parse.StringNode:
		return expr{kind: exprText, text: strings.Clone(n.Text)}, true
	default:
		return expr{}, false
	}
}
