#!/usr/bin/env bash
# Tests of the page in Chromium, against the relay that is built with what is committed.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -d node_modules ] || npm ci --no-audit --no-fund
chromium=${CHROMIUM:-/usr/bin/chromium}
if [ ! -x "$chromium" ]; then
	echo "NOT RUN: there is no $chromium (apt-get install chromium, or set CHROMIUM)"
	exit "${DIAN_NEED_CHROMIUM:-0}"
fi
if [ -z "${DIAN:-}" ]; then
	DIAN=$(mktemp -d)/dian
	trap 'rm -rf "$(dirname "$DIAN")"' EXIT
	(cd .. && go build -o "$DIAN" ./cmd/dian)
fi
export DIAN CHROMIUM="$chromium"
node --test --test-concurrency=1 test/*.test.mjs
