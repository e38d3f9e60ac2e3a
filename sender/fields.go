package sender

import (
	"errors"
	"fmt"
	htmltemplate "html/template"
	"slices"
	"strings"
	texttemplate "text/template"
	"text/template/parse"
)

// fields lists the top-level values that a template of the given name can have.
// The write path gives those of an invitation to its own templates alone.
func fields(name string) []string {
	common := []string{"data", "locale", "recipient"}
	if name != "invitation" && name != "invitation-reminder" {
		return common
	}
	return append(common, "group_id", "group_name", "email", "inviter_id", "inviter_name", "link", "expires_at")
}

// checkFields refuses a template that asks for a top-level value which cannot
// exist: {{.grup_name}} is found when the daemon starts, and not in the mail.
//
// It looks where the dot certainly is the root. Within {{range}}, {{with}} and
// {{define}} the dot is something else, and the check is left to the execution.
func checkFields[T *texttemplate.Template | *htmltemplate.Template](name string, tmpl T) error {
	c := fieldCheck{known: fields(name)}
	switch tmpl := any(tmpl).(type) {
	case *texttemplate.Template:
		if tmpl != nil {
			c.tree = tmpl.Tree
		}
	case *htmltemplate.Template:
		if tmpl != nil {
			c.tree = tmpl.Tree
		}
	}
	if c.tree != nil {
		c.node(c.tree.Root, true)
	}
	return errors.Join(c.problems...)
}

type fieldCheck struct {
	tree     *parse.Tree
	known    []string
	problems []error
}

// node checks n and what is below it; root says that the dot is the root.
func (c *fieldCheck) node(n parse.Node, root bool) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil {
			for _, child := range n.Nodes {
				c.node(child, root)
			}
		}
	case *parse.ActionNode:
		c.node(n.Pipe, root)
	case *parse.TemplateNode:
		c.node(n.Pipe, root)
	case *parse.IfNode:
		c.branch(&n.BranchNode, root, root)
	case *parse.WithNode:
		c.branch(&n.BranchNode, root, false)
	case *parse.RangeNode:
		c.branch(&n.BranchNode, root, false)
	case *parse.PipeNode:
		if n != nil {
			for _, cmd := range n.Cmds {
				c.node(cmd, root)
			}
		}
	case *parse.CommandNode:
		for _, arg := range n.Args {
			c.node(arg, root)
		}
	case *parse.ChainNode:
		c.node(n.Node, root)
	case *parse.FieldNode:
		if root {
			c.field(n, n.Ident[0])
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" && len(n.Ident) > 1 {
			c.field(n, n.Ident[1])
		}
	}
}

func (c *fieldCheck) branch(n *parse.BranchNode, root, rootInside bool) {
	c.node(n.Pipe, root)
	c.node(n.List, rootInside)
	c.node(n.ElseList, root)
}

func (c *fieldCheck) field(n parse.Node, name string) {
	if slices.Contains(c.known, name) {
		return
	}
	location, _ := c.tree.ErrorContext(n)
	c.problems = append(c.problems, fmt.Errorf("%s: there is no value .%s; there are .%s", location, name, strings.Join(c.known, " .")))
}
