#!/usr/bin/env bash
# Runs every fuzz target of the module for a short while: test/fuzz.sh 3s
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-3s}
found=0
while IFS=: read -r file target; do
	found=$((found + 1))
	echo "$(dirname "$file") $target"
	go test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time" | grep -vE '^fuzz: elapsed|^(PASS|ok)' || [ "${PIPESTATUS[0]}" -eq 0 ]
done < <(git grep -hn --no-color -oE 'func Fuzz[A-Za-z0-9_]+' -- '*_test.go' ':!bench' ':!test' >/dev/null && git grep --no-color -oE 'func Fuzz[A-Za-z0-9_]+' -- '*_test.go' ':!bench' ':!test' | sed -E 's/:func /:/')
[ "$found" -gt 0 ] || { echo "no fuzz target was found"; exit 1; }
echo "$found fuzz targets"
