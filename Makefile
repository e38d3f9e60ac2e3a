# The two commands of the README are `make dev` and `make check`.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
GO_TOOL := go tool -modfile=tools.mod
REDOCLY := npx --yes @redocly/cli@2.77.0
SQUAWK  := npx --yes squawk-cli@2.66.0

.DEFAULT_GOAL := help
.PHONY: help dev build test lint check fuzz torture bench clean

help: ## list the targets
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

dev: build ## try it all on this machine: PostgreSQL, daemon, inbox (ARGS="--ephemeral")
	@exec bin/mailcrane dev $(ARGS)

build: ## build bin/mailcrane
	go build -trimpath -buildvcs=false -ldflags "-X main.version=$(VERSION)" -o bin/mailcrane ./cmd/mailcrane

test: ## run the tests but the longest; those that miss a program are skipped
	go test -short ./...

lint: ## check the format, the modules, the Go code, the migrations and the description of the HTTP API
	@unformatted=$$(gofmt -l .) && [ -z "$$unformatted" ] || { echo "run gofmt -w on: $$unformatted"; exit 1; }
	go mod tidy -diff
	go mod verify
	go vet ./...
	$(GO_TOOL) golangci-lint run
	$(SQUAWK) migrations/*.up.sql </dev/null
	@mkdir -p bin
	go run ./cmd/mailcrane openapi >bin/openapi.json
	REDOCLY_TELEMETRY=off $(REDOCLY) lint --config .redocly.yaml bin/openapi.json </dev/null

check: export MAILCRANE_CHECK := 1
check: ## install what is missing, lint, and run every test with the race detector
	@mkdir -p bin && rm -f bin/test.json
	.ci/setup
	@failed=; $(MAKE) --no-print-directory lint || failed=lint; \
	$(GO_TOOL) gotestsum --format pkgname-and-test-fails --jsonfile bin/test.json -- -race -timeout 20m ./... || failed="$$failed test"; \
	[ -z "$$failed" ] || { echo "not green: $$failed"; exit 1; }

fuzz: ## feed every fuzz target with input by chance, half a minute each (FUZZTIME=10m)
	@.ci/fuzz $(FUZZTIME)

torture: build ## kill, cut and stop what can be, for about an hour, and count the mails (ARGS="--seed 7")
	@exec bin/mailcrane torture --scale 1 --messages 20000 $(ARGS)

bench: build ## measure end to end how fast this machine sends (ARGS="latency --runs 3"; default: drain)
	@exec bin/mailcrane bench $(or $(ARGS),drain)

clean: ## remove what was built
	rm -rf bin
