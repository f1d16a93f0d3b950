#!/bin/sh
# Tells whether everything is well: `earshot healthcheck`, or the state of the compose stack where
# nothing is built on this machine. Exit code 0 only when it is.
set -eu
cd "$(dirname "$0")/.."

if [ -x bin/earshot ]; then
	exec bin/earshot healthcheck "$@"
elif command -v docker >/dev/null; then
	exec docker compose exec gateway earshot healthcheck "$@"
fi
echo "health-check: bin/earshot is missing and so is docker; run make build" >&2
exit 1
