#!/usr/bin/env bash
# Are the Go micro-benchmarks slower than at another commit?
#
#   bench/compare.sh BASE        COUNT=10 BENCHTIME=0.5s BENCH=. PACKAGES='./internal/wire ./server'
#
# Both test programs are built first, then run in turn, so that what else the machine does
# happens to both. Ends with 1 if benchstat is sure (p < 0.05) that something takes more than
# 3 % more time, memory or allocations.
set -euo pipefail
cd "$(dirname "$0")/.."
base=${1:?say which commit to compare with}
bench=${BENCH:-.} count=${COUNT:-10} time=${BENCHTIME:-0.5s}
packages=${PACKAGES:-$(git grep -l '^func Benchmark' -- '*_test.go' ':!test' ':!bench' | xargs -n1 dirname | sort -u | sed 's|^|./|')}

dir=$(mktemp -d)
trap 'git worktree remove --force "$dir/base" 2>/dev/null || true; rm -rf "$dir"' EXIT
git worktree add --quiet --detach "$dir/base" "$base"

for package in $packages; do
	name=${package//\//_}
	for side in base now; do
		root=. && [ $side = now ] || root=$dir/base
		# A package that is new has nothing to be compared with.
		[ -d "$root/$package" ] && (cd "$root" && go test -c -o "$dir/$side$name.test" "$package")
	done
done
for ((round = 1; round <= count; round++)); do
	for package in $packages; do
		for side in base now; do
			root=$PWD && [ $side = now ] || root=$dir/base
			program=$dir/$side${package//\//_}.test
			[ -x "$program" ] || continue
			(cd "$root/$package" && "$program" -test.run='^$' -test.bench="$bench" -test.benchtime="$time" -test.benchmem) >>"$dir/$side.txt"
		done
	done
	echo "round $round of $count" >&2
done

for side in base now; do
	grep -q '^Benchmark' "$dir/$side.txt" 2>/dev/null || { echo "no benchmark of $packages matches $bench on side $side" >&2; exit 2; }
done
cd bench
go tool benchstat "base=$dir/base.txt" "now=$dir/now.txt"
# In CSV a row is name, base, its interval, now, its interval, change, p; "~" is no change.
go tool benchstat -format csv "base=$dir/base.txt" "now=$dir/now.txt" 2>/dev/null | awk -F, '
	$2 ~ /^(sec|B|allocs)\/op$/ { unit = $2 }
	$2 ~ /\/s$/ { unit = "" }
	unit != "" && $1 != "geomean" && $6 ~ /^\+/ && substr($6, 2) + 0 > 3 { print "slower: " $1 " " $6 " " unit " (" $7 ")"; bad = 1 }
	END { if (!bad) print "nothing is slower by more than 3 %"; exit bad }'
