package sender

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	texttemplate "text/template"
)

//go:embed templates
var embedded embed.FS

// fallbackLocale is the language of last resort.
const fallbackLocale = "en"

// The parts of a template, which are the endings of its files.
const (
	partSubject = "subject"
	partText    = "txt"
	partHTML    = "html"
)

// Templates holds the texts of the messages, in their languages. It is safe for
// use by many goroutines.
type Templates struct {
	byLocale map[string]map[string]*emailTemplate // by normalised language tag and name
	escapers escapers                             // what was learnt while loading
}

// emailTemplate is one message in one language.
type emailTemplate struct {
	name, locale string
	subject      *part
	text         *part
	html         *part // nil: the message has no HTML part
}

// LoadTemplates gives the embedded templates (invitation and verify, in en and
// de), with the files of overrides over them; nil means none. Each file stands
// for itself: de/invitation.txt replaces the German text and leaves subject and
// HTML part alone. New names and new languages are welcome.
//
// A file is <language tag>/<name>.<part>, with the parts subject and txt, which
// every template needs, and html, which is recommended. They are Go templates
// (text/template, and html/template with its escaping) over these values:
//
//	group_id group_name email inviter_id inviter_name link expires_at
//	                   of an invitation, in the template invitation only; group_name
//	                   and inviter_name may be empty
//	recipient          the address that is written to
//	locale             the language tag of the template in use
//	data               the application's own values: .data.link
//
// The function date formats a time such as .expires_at in the language of the
// template. A value that is missing is an error; write {{index .data "name"}} for
// one that may be. The embedded verify wants .data.link, and shows .data.app_name
// if there is one.
//
// The error lists every mistake in every file, with its line: syntax, missing
// parts, values that cannot exist.
func LoadTemplates(overrides fs.FS) (*Templates, error) {
	base, err := fs.Sub(embedded, "templates")
	if err != nil {
		return nil, err
	}
	files := map[templateFile]source{}
	problems := []error{collect(base, files)}
	if overrides != nil {
		problems = append(problems, collect(overrides, files))
	}
	t := &Templates{byLocale: map[string]map[string]*emailTemplate{}, escapers: escapers{}}
	for _, file := range slices.SortedFunc(maps.Keys(files), templateFile.compare) {
		problems = append(problems, t.add(file, files[file]))
	}
	problems = append(problems, t.checkParts())
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	return t, nil
}

// templateFile identifies one file of either folder.
type templateFile struct {
	locale string // normalised
	name   string
	part   string
}

func (f templateFile) compare(g templateFile) int {
	return cmp.Or(cmp.Compare(f.locale, g.locale), cmp.Compare(f.name, g.name), cmp.Compare(f.part, g.part))
}

type source struct {
	path string // as it is called in its folder, for error messages
	text string
}

var (
	localeFolder = regexp.MustCompile(`^[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*$`)
	templateName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,63}$`)
)

// collect reads the files of fsys into files. What starts with a dot is not
// ours, nor are files beside the folders.
func collect(fsys fs.FS, files map[templateFile]source) error {
	folders, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return err
	}
	var problems []error
	seen := map[string]string{}
	for _, folder := range folders {
		// Stat follows links, of which a folder mounted from a config map consists.
		info, err := fs.Stat(fsys, folder.Name())
		switch {
		case strings.HasPrefix(folder.Name(), "."):
		case err != nil:
			problems = append(problems, err)
		case !info.IsDir():
		case !localeFolder.MatchString(folder.Name()):
			problems = append(problems, fmt.Errorf("%s: the folder's name is not a language tag such as en or de-AT", folder.Name()))
		case seen[normalise(folder.Name())] != "":
			problems = append(problems, fmt.Errorf("%s and %s: two folders for one language", seen[normalise(folder.Name())], folder.Name()))
		default:
			seen[normalise(folder.Name())] = folder.Name()
			problems = append(problems, collectLocale(fsys, folder.Name(), files))
		}
	}
	return errors.Join(problems...)
}

func collectLocale(fsys fs.FS, folder string, files map[templateFile]source) error {
	entries, err := fs.ReadDir(fsys, folder)
	if err != nil {
		return err
	}
	var problems []error
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		file := path.Join(folder, entry.Name())
		name, part, _ := strings.Cut(entry.Name(), ".")
		if !templateName.MatchString(name) || part != partSubject && part != partText && part != partHTML {
			problems = append(problems, fmt.Errorf("%s: a file is called <name>.subject, <name>.txt or <name>.html, its name in lower case", file))
			continue
		}
		text, err := fs.ReadFile(fsys, file)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		files[templateFile{normalise(folder), name, part}] = source{file, string(text)}
	}
	return errors.Join(problems...)
}

// add parses and checks one file, and puts it into its place.
func (t *Templates) add(file templateFile, src source) error {
	if t.byLocale[file.locale] == nil {
		t.byLocale[file.locale] = map[string]*emailTemplate{}
	}
	tmpl := t.byLocale[file.locale][file.name]
	if tmpl == nil {
		tmpl = &emailTemplate{name: file.name, locale: languageTag(src.path)}
		t.byLocale[file.locale][file.name] = tmpl
	}
	date := dateFunc(file.locale)
	funcs := map[string]any{"date": date}
	if file.part == partHTML {
		html, err := parseHTML(src, funcs)
		if err == nil {
			tmpl.html = &part{tmpl: html, program: compiler{html: true, escapers: t.escapers}.compile(html.Tree, date)}
		}
		return errors.Join(err, checkFields(file.name, html))
	}
	text := texttemplate.New(src.path).Funcs(funcs).Option("missingkey=error")
	_, err := text.Parse(src.text)
	compiled := &part{tmpl: text, program: compiler{}.compile(text.Tree, date)}
	if file.part == partSubject {
		tmpl.subject = compiled
	} else {
		tmpl.text = compiled
	}
	return errors.Join(err, checkFields(file.name, text))
}

func languageTag(file string) string {
	return strings.ReplaceAll(path.Dir(file), "_", "-")
}

// parseHTML also has the template escaped. The library does that before the
// first execution, so that one is provoked here.
func parseHTML(src source, funcs map[string]any) (*htmltemplate.Template, error) {
	tmpl, err := htmltemplate.New(src.path).Funcs(funcs).Option("missingkey=error").Parse(src.text)
	if err != nil {
		return nil, err
	}
	err = tmpl.Execute(io.Discard, map[string]any{})
	if _, ok := errors.AsType[*htmltemplate.Error](err); ok {
		return tmpl, err
	}
	return tmpl, nil // without values anything else goes wrong
}

func (t *Templates) checkParts() error {
	var problems []error
	for _, locale := range slices.Sorted(maps.Keys(t.byLocale)) {
		for _, name := range slices.Sorted(maps.Keys(t.byLocale[locale])) {
			tmpl := t.byLocale[locale][name]
			if tmpl.subject == nil {
				problems = append(problems, fmt.Errorf("%s/%s.subject is missing", tmpl.locale, name))
			}
			if tmpl.text == nil {
				problems = append(problems, fmt.Errorf("%s/%s.txt is missing", tmpl.locale, name))
			}
		}
	}
	return errors.Join(problems...)
}
