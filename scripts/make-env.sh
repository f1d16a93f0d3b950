#!/bin/sh
# Writes .env for docker compose: .env.example with a random value for every empty setting.
# An existing .env is left alone, so that passwords stay what the volumes were made with.
set -eu
cd "$(dirname "$0")/.."

if [ -e .env ]; then
	echo ".env exists already; remove it first to get new secrets (and the volumes with it: docker compose down -v)"
	exit 0
fi

umask 077
tmp=$(mktemp .env.XXXXXX)
trap 'rm -f "$tmp"' EXIT
while IFS= read -r line; do
	case $line in
	*=) printf '%s%s\n' "$line" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" ;;
	*) printf '%s\n' "$line" ;;
	esac
done <.env.example >"$tmp"
mv "$tmp" .env
echo ".env written; start with: docker compose up -d --build --wait"
