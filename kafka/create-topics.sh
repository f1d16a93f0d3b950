#!/bin/sh
# The same as scripts/create-topics.sh, under the name some know it by.
exec "$(dirname "$0")/../scripts/create-topics.sh" "$@"
