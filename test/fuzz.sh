#!/usr/bin/env bash
# Runs every fuzz target of the module for a short while, test/fuzz.sh 3s, or with a number of inputs,
# test/fuzz.sh 1000x. A time may run out while the corpus is still being read, which go test calls a
# failure (context deadline exceeded); a number does not.
# Targets are found by their names; a package is built once for all of its own. Each target has one
# processor, and as many run at once as there are.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-1s}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cache=$(go env GOCACHE)/fuzz/$(go list -m)

git grep --untracked --no-color -oE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' ':!bench' ':!test' |
	sed -E 's/^([^:]*):func (.*)$/\1 \2/' | while read -r file target; do echo "$(dirname "$file") $target"; done | sort >"$out/targets"
[ -s "$out/targets" ] || { echo "no fuzz target was found"; exit 1; }
cut -d' ' -f1 "$out/targets" | sort -u | while read -r dir; do
	go test -c -fuzz . -o "$out/$dir/fuzz.test" "./$dir"
done

# fuzz FOLDER TARGET prints the target and, if something was found, all that it said.
fuzz() {
	local said
	if said=$(cd "$1" && GOMAXPROCS=1 "$out/$1/fuzz.test" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "$time" \
		-test.parallel 1 -test.fuzzminimizetime 10x -test.fuzzcachedir "$cache/$1" 2>&1); then
		echo "$1 $2"
	else
		echo "$1 $2: $said"
		return 1
	fi
}
export -f fuzz
export out time cache
xargs -L 1 -P "$(nproc)" bash -c 'fuzz "$0" "$1"' <"$out/targets"
echo "$(wc -l <"$out/targets") fuzz targets"
