#!/usr/bin/env bash
# Runs every fuzz target of the module for a short while: test/fuzz.sh 3s
# Targets are found by their names; a package is built once for all of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-1s}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cache=$(go env GOCACHE)/fuzz/$(go list -m)
found=0 package=
while IFS=: read -r file target; do
	found=$((found + 1))
	dir=$(dirname "$file")
	if [ "$dir" != "$package" ]; then
		package=$dir
		go test -c -fuzz . -o "$out/fuzz.test" "./$dir"
	fi
	echo "$dir $target"
	(cd "$dir" && "$out/fuzz.test" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$time" -test.fuzzminimizetime 10x -test.fuzzcachedir "$cache/$dir" 2>&1) |
		grep -vE '^fuzz: elapsed|^(PASS|ok)' || [ "${PIPESTATUS[0]}" -eq 0 ]
done < <(git grep --untracked --no-color -oE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' ':!bench' ':!test' | sed -E 's/:func /:/' | sort)
[ "$found" -gt 0 ] || { echo "no fuzz target was found"; exit 1; }
echo "$found fuzz targets"
