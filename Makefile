# Earshot. `make` prints the targets.
#
# What a target needs is fetched with Go's own module client; tools are built into bin/tools from the
# modules in tools/, once, and again when their go.mod changes.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
TOOLS   := bin/tools
BUF     := $(TOOLS)/buf
LINT    := $(TOOLS)/golangci-lint
PLUGINS := $(addprefix $(TOOLS)/,protoc-gen-go protoc-gen-go-grpc protoc-gen-grpc-gateway protoc-gen-openapiv2)
SCRIPTS := $(wildcard scripts/*.sh kafka/*.sh)

# These start the services as processes of their own: the race detector would see the test alone.
NO_RACE := /services/tests/

.PHONY: help
help: ## Print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Serve the whole mesh with demo traffic until Ctrl-C
	exec bin/earshot up --demo

.PHONY: test
test: build ## Run all tests, with the race detector where it counts (PKG=./services/sink/... for some)
	@all=$$(go list $(or $(PKG),./...)); \
	raced=$$(grep -vE '$(NO_RACE)' <<<"$$all" || true); \
	plain=$$(grep -E '$(NO_RACE)' <<<"$$all" || true); \
	rc=0; \
	if [ -n "$$raced" ]; then go test -race -timeout 10m $$raced || rc=1; fi; \
	if [ -n "$$plain" ]; then EARSHOT_BIN=$(CURDIR)/bin/earshot go test -timeout 10m $$plain || rc=1; fi; \
	exit $$rc

.PHONY: gen
gen: $(BUF) $(PLUGINS) ## Write gen/ from proto/ (Go, gateway, OpenAPI, descriptors)
	rm -rf bin/gen
	$(BUF) generate -o bin/gen
	$(BUF) build proto --exclude-source-info -o bin/gen/gen/descriptors.binpb
	find gen -type f ! -name embed.go -delete
	cp -R bin/gen/gen/. gen/
	find gen -type d -empty -delete

.PHONY: lint lint-go lint-protos lint-scripts
lint: lint-scripts lint-protos breaking lint-go ## Check Go, protos, breaking changes and scripts

lint-go: $(LINT)
	$(LINT) run
	go vet -C tools/validateproto .

lint-protos: $(BUF)
	$(BUF) lint
	$(BUF) format --diff --exit-code proto

lint-scripts:
	@for f in $(SCRIPTS); do echo "sh -n $$f"; sh -n "$$f"; done
	bash -n .ci/run

.PHONY: fmt
fmt: $(BUF) $(LINT) ## Format Go and protos
	$(LINT) fmt
	$(BUF) format -w proto

.PHONY: build
build: ## Build bin/earshot and fetch the ClickHouse engine into the user's cache
	go build -ldflags '-X main.release=$(VERSION)' -o bin/earshot ./services/earshot
	bin/earshot engine fetch

.PHONY: bench
bench: build ## Measure the whole mesh on this machine into docs/performance.md (ROW=batch for one row, printed only)
	go build -o bin/bench ./services/tests/bench
	EARSHOT_BIN=bin/earshot ROW=$(ROW) bin/bench

.PHONY: bench-parts
bench-parts: ## Run the benchmarks of single parts (PKG=./services/sink/... for some)
	go test -run '^$$' -bench . -benchmem $(or $(PKG),./...)

# Compared with the last release; before the first one with main, or on main itself with the commit
# before. What was never released or merged may still change freely.
.PHONY: breaking
breaking: $(BUF)
	@base=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true); \
	if [ -z "$$base" ]; then \
		base=$$(git rev-parse --verify --quiet main || git rev-parse --verify --quiet origin/main || true); \
		if [ "$$base" = "$$(git rev-parse HEAD)" ]; then base=$$(git rev-parse --verify --quiet HEAD~1 || true); fi; \
	fi; \
	if [ -z "$$base" ] || ! git cat-file -e "$$base:proto" 2>/dev/null; then \
		echo "buf breaking: skipped, no earlier commit with protos to compare with"; \
	else \
		rm -rf bin/breaking && mkdir -p bin/breaking; \
		git archive "$$base" buf.yaml proto third_party/proto | tar -x -C bin/breaking; \
		echo "$(BUF) breaking --against $$base"; \
		$(BUF) breaking --against bin/breaking; \
	fi

.PHONY: tools
tools: $(BUF) $(PLUGINS) $(LINT) $(TOOLS)/grpcurl ## Build all tools, grpcurl among them, into bin/tools

.PHONY: clean
clean: ## Remove what make built; caches and data stay
	rm -rf bin

# A module for each set of tools: their dependencies do not resolve together.
$(BUF): tools/buf/go.mod tools/buf/go.sum
	go build -C tools/buf -o $(CURDIR)/$(TOOLS)/ tool
	@touch $@

$(PLUGINS) &: tools/protoc/go.mod tools/protoc/go.sum
	go build -C tools/protoc -o $(CURDIR)/$(TOOLS)/ tool
	@touch $(PLUGINS)

$(LINT): tools/lint/go.mod tools/lint/go.sum
	go build -C tools/lint -o $(CURDIR)/$(TOOLS)/ tool
	@touch $@

$(TOOLS)/grpcurl: tools/grpcurl/go.mod tools/grpcurl/go.sum
	go build -C tools/grpcurl -o $(CURDIR)/$(TOOLS)/ tool
	@touch $@
