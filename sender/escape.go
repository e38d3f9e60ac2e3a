package sender

import (
	htmltemplate "html/template"
	"strings"
	"text/template/parse"
	"unicode/utf8"
)

// escapers are the ways in which html/template escapes values, by the functions
// that it puts at the end of a pipeline.
type escapers map[string]*escaper

// probe gives a template in which a value is escaped by the given functions. For
// others there is none: their templates are left to the library.
func probe(functions string) string {
	const (
		filter    = "_html_template_urlfilter|"
		normalise = "_html_template_urlnormalizer|"
		attribute = "_html_template_attrescaper"
	)
	switch functions {
	case "_html_template_htmlescaper":
		return `<p>{{.}}</p>`
	case "_html_template_rcdataescaper":
		return `<title>{{.}}</title>`
	case attribute:
		return `<p title="{{.}}">`
	case filter + normalise + attribute:
		return `<a href="{{.}}">`
	case normalise + attribute:
		return `<a href="/{{.}}">`
	case "_html_template_urlescaper|" + attribute:
		return `<a href="/?q={{.}}">`
	default:
		return ""
	}
}

// escaper escapes the values that are easy, as html/template does. What each
// character becomes is not written down here: the library was asked.
type escaper struct {
	ascii     [utf8.RuneSelf]string // what becomes of a character; none: that depends, or it was not understood
	same      [utf8.RuneSelf]bool   // it stays as it is
	unicode   bool                  // other characters stay as they are, if the text is valid UTF-8
	filter    bool                  // only what begins with http:// or https:// is easy
	normalise bool                  // % and two hexadecimal digits stay as they are
}

// of gives the escaper for a pipeline's end, or nil if there is none.
func (known escapers) of(functions string) *escaper {
	if e, ok := known[functions]; ok {
		return e
	}
	e := learn(functions)
	known[functions] = e
	return e
}

// learn asks html/template what becomes of each ASCII character. All of these
// functions replace character by character, no matter what is beside it, except
// that the filter looks at the scheme, and the normaliser at what follows a %.
func learn(functions string) *escaper {
	tmpl, err := htmltemplate.New("probe").Parse(probe(functions))
	if err != nil || probe(functions) == "" {
		return nil
	}
	e := &escaper{
		unicode:   !strings.Contains(functions, "url"),
		filter:    strings.Contains(functions, "urlfilter"),
		normalise: strings.Contains(functions, "urlnormalizer"),
	}
	lead := "a"
	if e.filter {
		lead = "https://a"
	}
	ask := func(value string) (answer string, ok bool) {
		var out strings.Builder
		err := tmpl.Execute(&out, value) // the first one escapes the tree, too
		before, after, known := surroundings(tmpl.Tree, functions)
		answer, ok1 := strings.CutPrefix(out.String(), before+lead)
		answer, ok2 := strings.CutSuffix(answer, "z"+after)
		return answer, err == nil && known && ok1 && ok2
	}
	for c := range byte(utf8.RuneSelf) {
		if c == '%' && e.normalise {
			continue
		}
		answer, ok := ask(lead + string(rune(c)) + "z")
		if !ok {
			return nil // this version of the library does something else
		}
		e.ascii[c], e.same[c] = answer, answer == string(rune(c))
	}
	return e
}

// surroundings gives the text before and after the only value of a tree, which
// must be escaped by functions.
func surroundings(tree *parse.Tree, functions string) (before, after string, ok bool) {
	nodes := tree.Root.Nodes
	if len(nodes) != 3 {
		return "", "", false
	}
	first, ok1 := nodes[0].(*parse.TextNode)
	value, ok2 := nodes[1].(*parse.ActionNode)
	last, ok3 := nodes[2].(*parse.TextNode)
	if !ok1 || !ok2 || !ok3 || commandNames(value.Pipe.Cmds[1:]) != functions {
		return "", "", false
	}
	return string(first.Text), string(last.Text), true
}

// commandNames joins the names of functions without arguments with |. Anything
// else has no name.
func commandNames(commands []*parse.CommandNode) string {
	names := make([]string, len(commands))
	for i, command := range commands {
		if name, ok := command.Args[0].(*parse.IdentifierNode); ok && len(command.Args) == 1 {
			names[i] = name.Ident
		}
	}
	return strings.Join(names, "|")
}

// append appends s, escaped. It declines what is not easy.
func (e *escaper) append(dst []byte, s string) (out []byte, ok bool) {
	if e.filter && !strings.HasPrefix(s, "https://") && !strings.HasPrefix(s, "http://") {
		return dst, false
	}
	beyond := false
	done := 0
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= utf8.RuneSelf:
			beyond = true
		case e.same[c]:
		case e.ascii[c] != "":
			dst = append(append(dst, s[done:i]...), e.ascii[c]...)
			done = i + 1
		case c != '%' || !e.normalise || i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]):
			return dst, false
		}
	}
	if beyond && (!e.unicode || !utf8.ValidString(s)) {
		return dst, false
	}
	return append(dst, s[done:]...), true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
