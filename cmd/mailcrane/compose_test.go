package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// composeService is what these tests look at of a service in docker-compose.yml.
type composeService struct {
	Image       string
	Command     []string
	Environment map[string]string
	Restart     string
	StopGrace   string `json:"stop_grace_period"`
	Healthcheck *struct{ Test []string }
	DependsOn   map[string]struct{ Condition string } `json:"depends_on"`
	Ports       []struct {
		HostIP string `json:"host_ip"`
	}
}

// loadCompose has the Compose project's own loader read docker-compose.yml, with
// nothing set in the environment, and gives the services.
func loadCompose(t *testing.T) map[string]composeService {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=../../tools.mod",
		"github.com/compose-spec/compose-go/v2/cmd", "--format=json", "--no-path-resolution", "../../docker-compose.yml")
	setByUsers := regexp.MustCompile(`^(MAILCRANE_|COMPOSE_|POSTGRES_|SMTP_URL=|DATABASE_URL=|VERSION=)`)
	cmd.Env = slices.DeleteFunc(os.Environ(), setByUsers.MatchString)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("docker-compose.yml: %v\n%s", err, &stderr)
	}
	var file struct{ Services map[string]composeService }
	if err := json.Unmarshal(output, &file); err != nil {
		t.Fatalf("%v in\n%s", err, output)
	}
	return file.Services
}

func TestCompose(t *testing.T) {
	t.Parallel()
	services := loadCompose(t)

	t.Run("holds the database, the relay, the migration and the daemon", func(t *testing.T) {
		for _, name := range []string{"postgres", "mailpit", "migrate", "daemon"} {
			if services[name].Image == "" {
				t.Errorf("no service %s with an image", name)
			}
		}
	})
	t.Run("every service that stays up is restarted and has a healthcheck", func(t *testing.T) {
		for name, s := range services {
			once := name == "migrate"
			if restarts := s.Restart == "unless-stopped"; restarts == once {
				t.Errorf("%s: restart: %s", name, s.Restart)
			}
			if s.Healthcheck == nil != once {
				t.Errorf("%s: healthcheck: %v", name, s.Healthcheck)
			}
		}
	})
	t.Run("the daemon starts on a migrated database and with a relay", func(t *testing.T) {
		for _, want := range []struct{ service, needs, condition string }{
			{"migrate", "postgres", "service_healthy"},
			{"daemon", "postgres", "service_healthy"},
			{"daemon", "mailpit", "service_healthy"},
			{"daemon", "migrate", "service_completed_successfully"},
		} {
			if got := services[want.service].DependsOn[want.needs].Condition; got != want.condition {
				t.Errorf("%s needs %s with condition %q, want %q", want.service, want.needs, got, want.condition)
			}
		}
		for name, s := range services {
			for needed := range s.DependsOn {
				if _, there := services[needed]; !there {
					t.Errorf("%s needs %s, which is not there", name, needed)
				}
			}
		}
	})
	t.Run("ports are published on loopback only", func(t *testing.T) {
		for name, s := range services {
			for _, port := range s.Ports {
				if ip, err := netip.ParseAddr(port.HostIP); err != nil || !ip.IsLoopback() {
					t.Errorf("%s publishes on %q", name, port.HostIP)
				}
			}
		}
	})
	t.Run("the commands exist", func(t *testing.T) {
		health := services["daemon"].Healthcheck.Test
		if !slices.Equal(health[:2], []string{"CMD", "/mailcrane"}) {
			t.Fatalf("healthcheck %q does not run the program of the image", health)
		}
		for _, command := range [][]string{services["daemon"].Command, services["migrate"].Command, health[2:]} {
			usage := "Usage:\n  mailcrane " + strings.Join(command, " ")
			if help := runProgram(t, append(command, "--help")...); !strings.Contains(help, usage) {
				t.Errorf("%q is no command: the help is\n%s", command, help)
			}
		}
	})
	t.Run("every setting is one that the program knows and takes", func(t *testing.T) {
		for _, name := range []string{"daemon", "migrate"} {
			environment := services[name].Environment
			found := configOf(t, environment)
			for key := range environment {
				if !regexp.MustCompile(`(?m)^` + key + `=.*  # file$`).MatchString(found) {
					t.Errorf("%s: %s is not a setting: the configuration is\n%s", name, key, found)
				}
			}
		}
	})
	t.Run("the daemon gets what serve asks for", func(t *testing.T) {
		for _, name := range []string{"DATABASE_URL", "SMTP_URL", "MAILCRANE_FROM", "MAILCRANE_API_TOKEN"} {
			if services["daemon"].Environment[name] == "" {
				t.Errorf("%s is not set", name)
			}
		}
	})
	t.Run("a stop waits longer than the daemon does for the relay", func(t *testing.T) {
		grace, err := time.ParseDuration(services["daemon"].StopGrace)
		if err != nil {
			t.Fatal(err)
		}
		stop := regexp.MustCompile(`MAILCRANE_STOP_TIMEOUT=(\S+)`).FindStringSubmatch(configOf(t, services["daemon"].Environment))
		if len(stop) != 2 {
			t.Fatal("the configuration has no MAILCRANE_STOP_TIMEOUT")
		}
		if timeout, err := time.ParseDuration(stop[1]); err != nil || grace <= timeout {
			t.Errorf("killed after %s, while the daemon waits %s, %v", grace, stop[1], err)
		}
	})
}

// configOf gives what `mailcrane config` prints for the settings. They come from
// a file, because there the program accepts no name that it does not know.
func configOf(t *testing.T, settings map[string]string) string {
	t.Helper()
	var lines strings.Builder
	for name, text := range settings {
		fmt.Fprintf(&lines, "%s=%s\n", name, text)
	}
	file := filepath.Join(t.TempDir(), "settings")
	if err := os.WriteFile(file, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return runProgram(t, "config", "--env-file", file)
}

// runProgram gives what the program prints, with nothing in its environment.
func runProgram(t *testing.T, args ...string) string {
	t.Helper()
	var output bytes.Buffer
	if err := run(t.Context(), args, nil, &output, &output); err != nil {
		t.Fatalf("mailcrane %s: %v", strings.Join(args, " "), err)
	}
	return output.String()
}

func TestDockerfile_givesAStaticProgramToAnOrdinaryUser(t *testing.T) {
	t.Parallel()
	dockerfile := readFile(t, "../../Dockerfile")
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(readFile(t, "../../go.mod"))[1]
	_, last, _ := strings.Cut(dockerfile, "\nFROM gcr.io/distroless/static")
	for _, want := range []struct{ in, line string }{
		{dockerfile, `FROM golang:` + regexp.QuoteMeta(version)},
		{dockerfile, `RUN CGO_ENABLED=0 go build .* -o /mailcrane \./cmd/mailcrane$`},
		{last, `COPY --from=build /mailcrane /mailcrane$`},
		{last, `USER nonroot`},
		{last, `ENTRYPOINT \["/mailcrane"\]$`},
	} {
		if !regexp.MustCompile(`(?m)^` + want.line).MatchString(want.in) {
			t.Errorf("no line %s in\n%s", want.line, want.in)
		}
	}
}

func TestDockerignore_letsInWhatTheProgramIsMadeOf(t *testing.T) {
	t.Parallel()
	admitted := strings.Fields(readFile(t, "../../.dockerignore"))
	const module = "github.com/mailcrane/mailcrane/"
	packages, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(packages)) {
		folder, ours := strings.CutPrefix(name, module)
		folder, _, _ = strings.Cut(folder, "/")
		if ours && !slices.Contains(admitted, "!"+folder) {
			t.Errorf(".dockerignore keeps %s out of the image's build", folder)
		}
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
