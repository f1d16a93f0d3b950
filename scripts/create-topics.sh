#!/bin/sh
# Creates the Kafka topics, or changes those that differ from the registry: `earshot topics apply`.
# With the compose stack and nothing built on this machine, it runs inside the stack.
set -eu
cd "$(dirname "$0")/.."

if [ -x bin/earshot ]; then
	exec bin/earshot topics apply "$@"
elif command -v docker >/dev/null; then
	exec docker compose run --rm topics topics apply "$@"
fi
echo "create-topics: bin/earshot is missing and so is docker; run make build" >&2
exit 1
