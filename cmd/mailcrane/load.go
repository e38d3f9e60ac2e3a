package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/mailcrane/mailcrane/sender"
)

// source is where a value came from.
type source string

const (
	sourceFlag        source = "flag"
	sourceEnvironment source = "environment"
	sourceFile        source = "file"
	sourceDefault     source = "default"
)

// value is a setting as it was found.
type value struct {
	setting
	text string
	from source
}

// choose gives the named settings, or all for no name.
func choose(names ...string) []setting {
	return slices.DeleteFunc(settings(), func(s setting) bool { return len(names) > 0 && !slices.Contains(names, s.name) })
}

// addFlags makes a flag of every setting that is no secret: what stands on a
// command line is seen by every user of the machine.
func addFlags(flags *pflag.FlagSet, chosen []setting) {
	flags.String("env-file", "", "read settings from a file of NAME=value lines")
	for _, s := range chosen {
		if !s.secret {
			flags.String(s.flag(), s.initial, s.usage+" ["+s.name+"]")
		}
	}
}

// load fills the chosen part of the configuration: flags before environment
// before --env-file before defaults. It reports all mistakes together.
func load(flags *pflag.FlagSet, environ []string, chosen []setting) (Config, error) {
	environment := map[string]string{}
	for _, line := range environ {
		name, text, _ := strings.Cut(line, "=")
		environment[name] = text
	}
	var file map[string]string
	mistakes := []error{unknownNames(environment, "the environment", false)}
	if path, _ := flags.GetString("env-file"); path != "" {
		var err error
		file, err = readEnvFile(path)
		mistakes = append(mistakes, err, unknownNames(file, path, true))
	}
	var c Config
	for _, s := range chosen {
		text, from, err := s.lookup(flags, environment, file)
		c.values = append(c.values, value{s, text, from})
		if err == nil && text != "" {
			err = s.parse(&c, text)
		}
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("%s (%s) %w", s.name, from, err))
		}
	}
	mistakes = append(mistakes, c.together())
	return c, errors.Join(mistakes...)
}

// lookup finds the text of a setting and where it came from. NAME_FILE names a
// file that holds it, as container platforms hand out secrets.
func (s setting) lookup(flags *pflag.FlagSet, environment, file map[string]string) (string, source, error) {
	if f := flags.Lookup(s.flag()); f != nil && f.Changed {
		return f.Value.String(), sourceFlag, nil
	}
	for _, layer := range []struct {
		texts map[string]string
		from  source
	}{{environment, sourceEnvironment}, {file, sourceFile}} {
		if text := layer.texts[s.name]; text != "" {
			return text, layer.from, nil
		}
		if path := layer.texts[s.name+"_FILE"]; path != "" {
			content, err := os.ReadFile(path) //nolint:gosec // the operator names the file
			if err != nil {
				return "", layer.from, fmt.Errorf("cannot be read from the file that %s_FILE names: %w", s.name, err)
			}
			return strings.TrimSpace(string(content)), layer.from, nil
		}
	}
	return s.initial, sourceDefault, nil
}

// readEnvFile reads NAME=value lines. Blank lines, lines that begin with # and
// a leading "export " are passed over; a value may stand in quotes.
func readEnvFile(path string) (map[string]string, error) {
	file, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("--env-file: %w", err)
	}
	defer file.Close() //nolint:errcheck // it was only read
	values := map[string]string{}
	var mistakes []error
	lines := bufio.NewScanner(file)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, found := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !found {
			mistakes = append(mistakes, fmt.Errorf("%s:%d: not of the form NAME=value", path, number))
			continue
		}
		value = strings.TrimSpace(value)
		for _, quote := range []string{`"`, `'`} {
			if len(value) > 1 && strings.HasPrefix(value, quote) && strings.HasSuffix(value, quote) {
				value = value[1 : len(value)-1]
				break
			}
		}
		values[strings.TrimSpace(name)] = value
	}
	return values, errors.Join(append(mistakes, lines.Err())...)
}

// unknownNames finds misspelt settings. A file holds nothing else, so every
// MAILCRANE_ name in it must be known; an environment may hold names that a
// platform made up, so there only what is nearly a setting counts.
func unknownNames(values map[string]string, where string, strict bool) error {
	var mistakes []error
	for name := range values {
		base := strings.TrimSuffix(name, "_FILE")
		if !strings.HasPrefix(name, "MAILCRANE_") || slices.ContainsFunc(settings(), func(s setting) bool { return s.name == base }) {
			continue
		}
		nearest := slices.MinFunc(settings(), func(a, b setting) int {
			return cmp.Compare(distance(a.name, base), distance(b.name, base))
		})
		if strict || distance(nearest.name, base) <= 2 {
			mistakes = append(mistakes, fmt.Errorf("%s in %s is not a setting: is %s meant?", name, where, nearest.name))
		}
	}
	slices.SortFunc(mistakes, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(mistakes...)
}

// distance is how many letters must be added, dropped or changed to make b of a
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// String writes the configuration as an --env-file with the source of each
// value, and without secrets.
func (c Config) String() string {
	var b strings.Builder
	for _, v := range c.values {
		switch {
		case v.text == "":
			fmt.Fprintf(&b, "# %s=\n", v.name)
			continue
		case v.secret:
			v.text = "***"
		case v.redact != nil:
			v.text = v.redact(v.text)
		}
		fmt.Fprintf(&b, "%s=%s  # %s\n", v.name, v.text, v.from)
	}
	return b.String()
}

var passwordInDSN = regexp.MustCompile(`(?i)(password|passfile|sslpassword)\s*=\s*('(\\.|[^'])*'|\S+)`)

func redactDatabaseURL(v string) string {
	u, err := url.Parse(v)
	if err != nil || u.Scheme == "" {
		return passwordInDSN.ReplaceAllString(v, "$1=***")
	}
	query := u.Query()
	for name := range query {
		if strings.Contains(strings.ToLower(name), "password") {
			query.Set(name, "***")
		}
	}
	if len(query) > 0 {
		u.RawQuery = query.Encode()
	}
	return u.Redacted()
}

func redactSMTPURL(v string) string {
	relays, err := sender.ParseRelays(v)
	if err != nil {
		return "(cannot be read)"
	}
	urls := make([]string, len(relays))
	for i, relay := range relays {
		urls[i] = relay.String()
	}
	return strings.Join(urls, ", ")
}
