# The commands people type. `make test` is what a change must pass (with .ci/run around it);
# `make bench` measures; `make generate` rewrites the generated files.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO    ?= go
TOOL  := $(GO) tool -modfile=tools.mod
BIN   := bin/dian

.PHONY: help build test test-go test-sim test-32 test-real test-js test-web sim kills soak lint generate generate-check web web-check cross fuzz races bench bench-cluster bench-compare clean

help: ## say what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

build: ## build bin/dian
	$(GO) build -buildvcs=auto -trimpath -o $(BIN) ./cmd/dian

test: ## all that a change must pass, except the cross builds and generated files
	./test/setup.sh
	$(MAKE) lint test-go test-sim test-32 test-real test-js test-web fuzz FUZZTIME=1000x

lint: ## gofmt, vet, go fix and staticcheck of all three modules, buf lint
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not gofmt-ed:"; echo "$$out"; exit 1; fi
	@for module in . test bench; do \
		cd $(CURDIR)/$$module; echo "vet, go fix, staticcheck: $$module"; \
		$(GO) vet ./...; \
		out=$$($(GO) fix -diff ./... 2>&1) || { echo "$$out"; echo "go fix has something to say: run go fix ./... in $$module"; exit 1; }; \
		$(GO) tool -modfile=$(CURDIR)/tools.mod staticcheck ./...; \
	done
	$(TOOL) buf lint

# Tables of thousands of cells, each a short script of one client after the other: under the race detector
# they take minutes and see nothing that the other tests do not.
MATRICES := ^(TestIsolation|TestEveryFrameInEveryStateOfEveryRole|TestEveryFrameGetsItsEnd|TestEverythingIsGivenBack|TestRevocationCountsOnEveryPath)$$

# Counts of allocations are not built with the race detector: it adds its own, and has pools lose what is in them.
ALLOCATIONS := ^TestCommandAllocatesLittle$$

test-go: ## unit, SDK and CLI tests under the race detector, and without it the server's matrices and what is allocated
	$(GO) test -race -shuffle=on -count=1 -parallel 4 -timeout 15m -skip '$(MATRICES)' $$($(GO) list ./... | grep -v /internal/sim$$)
	$(GO) test -count=1 -timeout 15m -run '$(MATRICES)' ./server
	$(GO) test -count=1 -timeout 5m -run '$(ALLOCATIONS)' .

test-sim: ## thousands of seeded worlds, and bugs that they have to find (one goroutine each: no race detector)
	$(GO) test -count=1 -timeout 15m ./internal/sim -sim.seeds=5000

sim: ## as many seeded worlds as you like, and all seeded bugs: make sim SEEDS=1000000 FIRST=1
	$(GO) test -count=1 -timeout 0 -v ./internal/sim -run TestSeeds -sim.seeds=$${SEEDS:-100000} -sim.first=$${FIRST:-1}
	$(GO) test -count=1 -timeout 0 -v ./internal/sim -run TestSeededBugs -sim.bugs

test-32: ## the same tests as a 32-bit program (386, or arm where the machine runs no 386: ALL=1 for what is slow then)
	./test/bits32.sh

test-real: ## curl, tus-js-client, proxies, TLS, kill -9: real programs side by side
	cd test && $(GO) test -count=1 -parallel 48 -timeout 20m ./...
	@[ "$$(id -u)" -eq 0 ] || echo "NOT RUN, because it needs root: full disks, lost packets, moving lines, a name server that is down (cases 75, 88, 91, 93)"

test-web: ## the web page in Chromium, with a relay and two people
	./web/test/run.sh

test-js: ## the TypeScript SDK: shared vectors, Node and Chromium, beside relay and CLI
	./sdk/js/test/run.sh

kills: ## kill -9 of relay, listener and sender, KILLS=1000 times each; takes about 22 minutes (LANES=5, DIAN_SEED=; NODES=3: a cluster)
	cd test && DIAN_KILLS=$${KILLS:-1000} DIAN_LANES=$${LANES:-5} DIAN_NODES=$${NODES:-1} $(GO) test -count=1 -v -timeout 3h -run TestKillStorm .

soak: ## random faults for SOAK=30m; what relay and listener hold must not grow (DIAN_SEED=; NODES=3: a cluster)
	cd test && DIAN_SOAK=$${SOAK:-30m} DIAN_NODES=$${NODES:-1} $(GO) test -count=1 -v -timeout 0 -run TestSoak .

fuzz: ## two seconds of every fuzz target (FUZZTIME=5s, or FUZZTIME=1000x inputs)
	./test/fuzz.sh $${FUZZTIME:-2s}

races: ## file-system races: RACES operations of the inbox while others swap what they work on (about 10 minutes)
	DIAN_RACES=$${RACES:-100000} $(GO) test -count=1 -timeout 60m -v -run 'TestRaces|TestSavers' ./internal/inbox

generate: ## rewrite the code generated from proto/
	$(TOOL) buf generate
	cd sdk/js && npm ci --no-audit --no-fund --loglevel=error && PATH="$$PWD/node_modules/.bin:$$PATH" npm run --silent generate

generate-check: ## fail if the generated code is not fresh
	$(MAKE) generate
	@git diff --exit-code -- '*.pb.go' sdk/js/src/gen || { echo "generated code was not fresh: run make generate"; exit 1; }

web: ## build the web page into internal/page/dist (Node.js 20.19 or newer)
	cd web && npm ci --no-audit --no-fund --loglevel=error && npm run --silent build

web-check: web ## fail if the committed build of the web page is not fresh
	@out=$$(git status --porcelain -- internal/page/dist); if [ -n "$$out" ]; then echo "$$out"; echo "the web page's build was not fresh: run make web and commit internal/page/dist"; exit 1; fi

cross: ## build for every platform that we promise
	./test/cross.sh

BENCH_ONLY := bulk,memory,commands,beside,idle,transfers,sessions,files,network
bench: ## Dian beside its limits and peers, into docs/performance.*; about an hour and a half (ROUNDS=5, GIB=1, ONLY=bulk,commands)
	cd bench && $(GO) run . -write ../docs -rounds $${ROUNDS:-5} -gib $${GIB:-1} -only $${ONLY:-$(BENCH_ONLY)}

bench-cluster: ## a cluster of two nodes beside one node and NATS, into docs/performance-cluster.*; about half an hour (ROUNDS=5, GIB=1)
	cd bench && $(GO) run . -write ../docs -rounds $${ROUNDS:-5} -gib $${GIB:-1} -only cluster

bench-compare: ## are the micro-benchmarks slower than at the commit BASE? (COUNT=10, PACKAGES=, BENCH=.)
	./bench/compare.sh $${BASE:-main}

clean:
	rm -rf bin dist
