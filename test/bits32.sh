#!/usr/bin/env bash
# Runs the module's tests as a 32-bit program: as 386 where this machine runs such programs, else as arm,
# under qemu if need be (Go's 386 programs crash under qemu's emulation of signals; its arm programs do not).
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0

hello=$(mktemp -d)
registered=""
ended() {
	rm -rf "$hello"
	if [ -n "$registered" ]; then echo -1 >"$registered"; fi
}
trap ended EXIT
cat >"$hello/main.go" <<'GO'
package main

func main() {}
GO

# runs GOARCH: does this machine run its programs?
runs() { GOARCH=$1 go build -o "$hello/$1" "$hello/main.go" && "$hello/$1" 2>/dev/null; }

# emulate makes the kernel start arm programs, those that a test starts too, under qemu.
emulate() {
	if ! command -v qemu-arm >/dev/null; then
		[ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 1
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-user || return 1
	fi
	local at=/proc/sys/fs/binfmt_misc
	[ -e $at/register ] || mount -t binfmt_misc none $at || return 1
	local magic='\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00'
	local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
	echo ":dian-test-arm:M::$magic:$mask:$(command -v qemu-arm):" >$at/register || return 1
	registered=$at/dian-test-arm
}

large=() slow=
emulated_too_slow=(
	TestIsolation TestEveryFrameInEveryStateOfEveryRole TestEveryFrameGetsItsEnd TestEverythingIsGivenBack
	TestRevocationCountsOnEveryPath TestDawdlersDoNotStopLogins TestConnectionsBeforeLoginHoldLittle
	TestSourceChangesAreFound TestTransferSurvivesRestarts TestTransferSurvivesACutAtEveryByte TestCutsDoNotHarm
	TestTenThousandFilesLeaveNothing TestFloodsOfAServerAreBounded TestNoFrameOfAServerHarmsTheClient
	TestNoCharacterBecomesASlash TestEveryStepMayFail TestRacesForTheReceiveFolder TestRacesForTheTarget
	TestRacesForNamesInTheReceiveFolder TestRacesForNamesInTheTarget
)
if runs 386; then
	arch=386
elif runs arm || { emulate && runs arm; }; then
	arch=arm
	echo "this machine does not run 386 programs: the tests are compiled for 386 and run as arm"
	# An emulated processor takes a quarter of an hour for these, and they have no numbers that the tables of sizes
	# and limits, the vectors and the fuzz seeds do not have.
	if [ -z "${ALL:-}" ]; then
		slow="|/cmd/dian\$"
		large=(-skip "^($(IFS='|'; echo "${emulated_too_slow[*]}"))\$")
		echo "without cmd/dian, ${emulated_too_slow[*]} (ALL=1 runs them too)"
	fi
	GOARCH=386 go vet ./...
else
	echo "this machine runs no 32-bit programs, neither 386 nor arm: as root on Debian qemu-user is used; otherwise install it with binfmt support" >&2
	exit 1
fi
echo "GOARCH=$arch go test ./..."
GOARCH=$arch go test -count=1 -timeout 25m "${large[@]}" $(go list ./... | grep -vE "/internal/sim\$$slow")
GOARCH=$arch go test -count=1 -timeout 15m ./internal/sim -run TestSeeds -sim.seeds=200
