#!/usr/bin/env bash
# Builds relay and SDK and runs all tests: vectors, machines, Node, Chromium. It fails when
# anything fails or is missing. DIAN names a relay that is built already, CHROMIUM a browser.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${DIAN:-}" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  export DIAN="$work/dian"
  (cd ../.. && go build -o "$DIAN" ./cmd/dian)
fi
export CHROMIUM="${CHROMIUM:-/usr/bin/chromium}"
if [ ! -x "$CHROMIUM" ]; then
  echo "sdk/js: no browser at $CHROMIUM; apt-get install chromium, or set CHROMIUM" >&2
  exit 1
fi
npm ci --no-audit --no-fund --loglevel=error
rm -rf dist
npm run --silent build
if grep -n '"resolved"' package-lock.json >&2; then
  echo "sdk/js: package-lock.json names a registry" >&2
  exit 1
fi
npm run --silent docs:check
node --test --test-timeout=600000 test/*.test.mjs
