package sender

import (
	"strings"
	"text/template/parse"
	"unicode"
	"unicode/utf8"
)

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
	return &program{nodes: nodes, date: date, framed: frame(nodes)}
}

// frame fixes the texts of a program that begins and ends with one. Then the space
// to be cut off is known, whatever the values are.
func frame(nodes []node) (framed bool) {
	if len(nodes) == 0 {
		return false
	}
	first, last := &nodes[0], &nodes[len(nodes)-1]
	if !isWords(first) || !isWords(last) {
		return false
	}
	if first == last {
		first.fixed = fix(strings.TrimSpace(first.text) + "\n")
		return true
	}
	first.fixed = fix(strings.TrimLeftFunc(first.text, unicode.IsSpace))
	fixAll(nodes[1 : len(nodes)-1])
	last.fixed = fix(strings.TrimRightFunc(last.text, unicode.IsSpace) + "\n")
	return true
}

// isWords says that n is text, of which not everything is cut off. Bytes that are
// no UTF-8 could form a space together with a value.
func isWords(n *node) bool {
	return n.kind == nodeText && strings.TrimSpace(n.text) != "" && utf8.ValidString(n.text)
}

func fixAll(nodes []node) {
	for i := range nodes {
		n := &nodes[i]
		n.fixed = fix(n.text)
		fixAll(n.then)
		fixAll(n.or)
	}
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
