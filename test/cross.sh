#!/usr/bin/env bash
# Builds (and vets the tests of) the whole module for every platform that README promises.
set -euo pipefail
cd "$(dirname "$0")/.."
for platform in linux/amd64 linux/arm64 linux/arm linux/loong64 linux/386 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64; do
	echo "$platform"
	GOOS=${platform%/*} GOARCH=${platform#*/} CGO_ENABLED=0 go build ./...
done
for os in darwin windows; do # files with build tags: their tests must compile too
	GOOS=$os CGO_ENABLED=0 go vet ./...
done
