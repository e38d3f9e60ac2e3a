package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func loadFrom(t *testing.T, environ []string, args ...string) (Config, error) {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	addFlags(flags, choose())
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return load(flags, environ, choose())
}

func envFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad_flagsBeforeEnvironmentBeforeFileBeforeDefault(t *testing.T) {
	t.Parallel()
	file := envFile(t, "# comment\n\nexport MAILCRANE_WORKERS=3\nMAILCRANE_RETRY_MIN='3s'\nMAILCRANE_SUBJECT_PREFIX=\"[Club] = x\"\nLOG_LEVEL=debug\nUNRELATED=1\n")
	c, err := loadFrom(t, []string{"MAILCRANE_WORKERS=2", "MAILCRANE_RETRY_MIN=2s", "PATH=/bin"}, "--env-file", file, "--workers", "1")
	if err != nil {
		t.Fatal(err)
	}
	if c.Workers != 1 || c.RetryMin != 2*time.Second || c.SubjectPrefix != "[Club] = x" || c.LogLevel.String() != "DEBUG" || c.RetryMax != 2*time.Hour {
		t.Errorf("got %+v", c)
	}
	printed := c.String()
	for _, want := range []string{"MAILCRANE_WORKERS=1  # flag", "MAILCRANE_RETRY_MIN=2s  # environment", "LOG_LEVEL=debug  # file", "MAILCRANE_RETRY_MAX=2h  # default", "# MAILCRANE_FROM="} {
		if !strings.Contains(printed, want) {
			t.Errorf("the printed configuration lacks %q:\n%s", want, printed)
		}
	}
}

func TestLoad_reportsAllMistakesTogether(t *testing.T) {
	t.Parallel()
	file := envFile(t, "MAILCRANE_WORKER=3\nno equals sign\n")
	mistakes := map[string]string{
		"DATABASE_URL": "nonsense%%", "SMTP_URL": "http://x", "MAILCRANE_FROM": "nobody", "MAILCRANE_ACCEPT_URL": "https://x.example/",
		"MAILCRANE_SECRET": "short", "MAILCRANE_LISTEN": "8025", "MAILCRANE_API_TOKEN": "x", "MAILCRANE_PUBLIC_URL": "x",
		"MAILCRANE_WORKERS": "0", "MAILCRANE_SMTP_CONNECTIONS": "many", "MAILCRANE_POLL_ONLY": "perhaps", "MAILCRANE_RETRY_MIN": "3",
		"MAILCRANE_LEASE": "1ms", "MAILCRANE_UNSAFE_DATABASE": "perhaps", "LOG_LEVEL": "loud", "LOG_FORMAT": "xml",
		"MAILCRANE_SMTP_MAX_MESSAGES": "0", "MAILCRANE_SMTP_IDLE_TIMEOUT": "0s", "MAILCRANE_RETRY_MAX": "soon", "MAILCRANE_STOP_TIMEOUT": "x",
		"MAILCRANE_SUBJECT_PREFX": "[x]", "MAILCRANE_DOMAIN_RATES": "gmail.com",
	}
	var environ []string
	for name, value := range mistakes {
		environ = append(environ, name+"="+value)
	}
	_, err := loadFrom(t, append(environ, "MAILCRANE_SERVICE_HOST=10.0.0.1", "MAILCRANE_PORT=tcp://10.0.0.1:80"), "--env-file", file)
	if err == nil {
		t.Fatal("nothing was found")
	}
	for name, value := range mistakes {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not reported: %v", name, err)
		}
		if name == "MAILCRANE_SECRET" && strings.Contains(err.Error(), value+"\n") {
			t.Errorf("a secret is in the error: %v", err)
		}
	}
	for _, want := range []string{"is MAILCRANE_WORKERS meant?", "is MAILCRANE_SUBJECT_PREFIX meant?", ":2: not of the form"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("it lacks %q: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "SERVICE_HOST") || strings.Contains(err.Error(), "MAILCRANE_PORT") {
		t.Errorf("what a platform sets is taken for a mistake: %v", err)
	}
}

func TestLoad_readsSecretsFromFilesAndPrintsNone(t *testing.T) {
	t.Parallel()
	const secret = "0123456789abcdef0123456789abcdef"
	c, err := loadFrom(t, []string{
		"MAILCRANE_SECRET_FILE=" + envFile(t, secret+"\n"), "MAILCRANE_API_TOKEN=topsecrettopsecret",
		"DATABASE_URL=postgres://app:hunter2@db/app?sslpassword=hunter2", "SMTP_URL=smtp://me:hunter2@mail.example.com",
		"MAILCRANE_ACCEPT_URL=https://app.example/join?t={token}",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Secret != secret {
		t.Errorf("secret %q", c.Secret)
	}
	for _, hidden := range []string{secret, "topsecret", "hunter2"} {
		if strings.Contains(c.String(), hidden) {
			t.Errorf("%s is printed:\n%s", hidden, c)
		}
	}
	if got, want := redactSMTPURL("smtp://me:hunter2@a.example?rate=5 smtps://me:hunter2@b.example"), "smtp://***@a.example:587?rate=5/s, smtps://***@b.example:465"; got != want {
		t.Errorf("printed: %s", got)
	}
	if got := redactSMTPURL("smtp://a.example,smtp://me:hunter,2@b.example"); got != "(cannot be read)" {
		t.Errorf("printed: %s", got)
	}
	if got := redactDatabaseURL("host=db user=app password='hunter 2' dbname=app"); strings.Contains(got, "hunter") {
		t.Errorf("printed: %s", got)
	}
	if _, err := loadFrom(t, []string{"MAILCRANE_SECRET_FILE=/does/not/exist"}); err == nil || !strings.Contains(err.Error(), "MAILCRANE_SECRET_FILE") {
		t.Error(err)
	}
	if _, err := loadFrom(t, []string{"MAILCRANE_ACCEPT_URL=https://app.example/join?t={token}"}); err == nil || !strings.Contains(err.Error(), "MAILCRANE_SECRET") {
		t.Errorf("an accept URL without a secret: %v", err)
	}
}

func TestRequire_namesWhatIsMissing(t *testing.T) {
	t.Parallel()
	c, err := loadFrom(t, []string{"DATABASE_URL=postgres://db/app"})
	if err != nil {
		t.Fatal(err)
	}
	err = c.require("DATABASE_URL", "SMTP_URL", "MAILCRANE_FROM")
	if err == nil || strings.Contains(err.Error(), "DATABASE_URL") || !strings.Contains(err.Error(), "SMTP_URL is not set") || !strings.Contains(err.Error(), "MAILCRANE_FROM is not set") {
		t.Error(err)
	}
}

func TestGuardAPI_wantsATokenBeforeItListensToTheNetwork(t *testing.T) {
	t.Parallel()
	for listen, open := range map[string]bool{
		"127.0.0.1:80": false, "[::1]:80": false, "localhost:80": false, ":80": true, "0.0.0.0:80": true, "[::]:80": true, "10.0.0.1:80": true, "mail.example.com:80": true,
	} {
		if err := (Config{Listen: listen}).guardAPI(); (err != nil) != open {
			t.Errorf("%s: %v", listen, err)
		}
		if err := (Config{Listen: listen, APIToken: "0123456789abcdef"}).guardAPI(); err != nil {
			t.Errorf("%s with a token: %v", listen, err)
		}
	}
}

func TestSettings_haveDefaultsThatAreValid(t *testing.T) {
	t.Parallel()
	if _, err := loadFrom(t, nil); err != nil {
		t.Error(err)
	}
	seen := map[string]bool{}
	for _, s := range settings() {
		if seen[s.flag()] || s.usage == "" {
			t.Errorf("setting %s", s.name)
		}
		seen[s.flag()] = true
	}
}
