# The two commands of the README are `make demo` and `make test`; both do all their set-up themselves.
# `make soak` runs the long truth tests, `make bench` prints figures, `make down` stops the test cluster.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
cargo := cargo --quiet
# A user's own cluster is used when KUBECONFIG is set; else the built-in one.
cluster := e2e/cluster
# Outside of the clone, so that a fresh clone compiles no dependency twice.
export CARGO_TARGET_DIR ?= $(or $(STOWAWAY_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stowaway)/target

# Cargo takes another clone's programs for this one's when they are younger than the sources here.
.PHONY: own
own:
	@mkdir -p $(CARGO_TARGET_DIR)
	@[ "$$(cat $(CARGO_TARGET_DIR)/clone 2>&1)" = "$(CURDIR)" ] || find src tests e2e helper seal webhook-certs -name '*.rs' -exec touch {} +
	@echo "$(CURDIR)" >$(CARGO_TARGET_DIR)/clone

.PHONY: help
help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

.PHONY: test
test: lint unit e2e ## Everything that must hold: lints, unit and repository tests, then all scenarios on the cluster
	@echo "make test: all passed"

.PHONY: tools
tools: ## Builds what the tests need into the cache (Kubernetes, restic, ...); minutes on a new machine, once
	@$(cluster)/build

.PHONY: build
build: own tools ## The binary, and the helper that goes into pods
	@echo "building stowaway (about 6 minutes on a new machine, seconds later) ..."
	@$(cargo) build --release
	@helper/build >/dev/null

.PHONY: lint
lint: own tools ## Formatting and clippy
	@echo "checking format and lints ..."
	@$(cargo) fmt --all --check
	@$(cargo) clippy --release --workspace --all-targets -- -D warnings

.PHONY: unit
unit: build ## Tests without a cluster, some of them with the real restic
	RUST_TEST_THREADS=4 cargo test --release --no-fail-fast

.PHONY: cluster
cluster: build ## The test cluster, with our image and the controller in it
	@$(cluster)/up
	@e2e/images/build
	@e2e/images/build stowaway $(CARGO_TARGET_DIR)/release/stowaway
	@e2e/install

.PHONY: e2e
e2e: cluster ## All scenarios on the cluster
	RUST_TEST_THREADS=4 cargo test --release --no-fail-fast --package stowaway-e2e

.PHONY: demo
demo: cluster ## A database is dumped, lost and brought back, before your eyes
	@e2e/demo

.PHONY: soak
soak: cluster ## The long truth tests: stalls, cuts and kills by the hundred (hours)
	@$(cargo) run --release --package stowaway-e2e --bin soak_repository
	@$(cargo) run --release --package stowaway-e2e --bin soak

.PHONY: bench
bench: cluster bench-admission bench-repository bench-recognise ## Rate, CPU and peak memory, beside kubectl exec | restic backup --stdin (BENCH_OPTIONS='--sizes 1024')
	@$(cargo) run --release --package stowaway-e2e --bin bench -- $(BENCH_OPTIONS)

.PHONY: bench-admission
bench-admission: cluster ## Latency, CPU and memory of the webhook, beside a plain handler that parses the same
	@$(cargo) run --release --package stowaway-e2e --bin admission

.PHONY: bench-repository
bench-repository: build ## Folders, checks, prunes and 10,000 snapshots, beside restic; needs no cluster
	@$(cargo) run --release --package stowaway-e2e --bin bench_repository -- $(BENCH_REPOSITORY_OPTIONS)

.PHONY: bench-recognise
bench-recognise: ## What the look at a dump for the end of its format costs, beside SHA-256; needs no cluster
	@$(cargo) run --release --package stowaway-e2e --bin bench_recognise -- $(BENCH_RECOGNISE_OPTIONS)

.PHONY: fuzz
fuzz: ## What nobody would write, for an hour each (FUZZ_SECONDS); needs a nightly Rust and cargo-fuzz
	@cd fuzz && for target in annotations protocol admission; do \
		cargo +nightly fuzz run --sanitizer none $$target -- -max_total_time=$(or $(FUZZ_SECONDS),3600); done

.PHONY: manifests
manifests: own ## Writes the generated manifests and the README's table anew
	@$(cargo) run --release --bin stowaway -- manifests --output manifests
	@e2e/update-readme

.PHONY: down
down: ## Stops the test cluster and removes what it left
	@$(cluster)/down
