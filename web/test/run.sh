#!/usr/bin/env bash
# Tests of the page in Chromium, against the relay that is built with what is committed.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -d node_modules ] || npm ci --no-audit --no-fund --loglevel=error
if grep -n '"resolved"' package-lock.json >&2; then
	echo "web: package-lock.json names a registry" >&2
	exit 1
fi
chromium=${CHROMIUM:-/usr/bin/chromium}
if [ ! -x "$chromium" ]; then
	echo "web: no browser at $chromium; apt-get install chromium, or set CHROMIUM" >&2
	exit 1
fi
if [ -z "${DIAN:-}" ]; then
	DIAN=$(mktemp -d)/dian
	trap 'rm -rf "$(dirname "$DIAN")"' EXIT
	(cd .. && go build -o "$DIAN" ./cmd/dian)
fi
export DIAN CHROMIUM="$chromium"
node --test --test-concurrency=1 test/*.test.mjs
