# Earshot. `make` prints the targets.
#
# Everything a target needs is fetched by Go's own module proxy client; tools are built into
# bin/tools from the modules in tools/, once, and again when their go.mod changes.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

TOOLS := bin/tools
BUF := $(TOOLS)/buf
PLUGINS := $(addprefix $(TOOLS)/,protoc-gen-go protoc-gen-go-grpc protoc-gen-grpc-gateway protoc-gen-openapiv2)

.PHONY: help
help: ## Print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: gen
gen: $(BUF) $(PLUGINS) ## Write gen/ from proto/ (Go, gateway, OpenAPI, descriptors)
	rm -rf bin/gen
	$(BUF) generate -o bin/gen
	$(BUF) build proto --exclude-source-info -o bin/gen/gen/descriptors.binpb
	find gen -type f ! -name embed.go -delete
	cp -R bin/gen/gen/. gen/
	find gen -type d -empty -delete

# One module a set of tools: their dependencies do not resolve together.
$(BUF): tools/buf/go.mod tools/buf/go.sum
	go build -C tools/buf -o $(CURDIR)/$(TOOLS)/ tool
	touch $@

$(PLUGINS) &: tools/protoc/go.mod tools/protoc/go.sum
	go build -C tools/protoc -o $(CURDIR)/$(TOOLS)/ tool
	touch $(PLUGINS)
