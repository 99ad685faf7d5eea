# The README names `make demo` and `make test`; both do their whole set-up themselves.
# `make soak` runs the soak tests, `make bench` prints measurements, and `make down` stops the test cluster.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
cargo := cargo --quiet
# The scripts of this folder use the cluster of KUBECONFIG if that is set, or else the built-in one.
cluster := e2e/cluster
# Outside of the clone, so that a new clone does not compile the dependencies again.
export CARGO_TARGET_DIR ?= $(or $(STOWAWAY_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stowaway)/target

# Touches the sources if another clone has used this target folder. Cargo compares only times, and would otherwise take the
# programs of the other clone for up to date.
.PHONY: own
own:
	@mkdir -p $(CARGO_TARGET_DIR)
	@[ "$$(cat $(CARGO_TARGET_DIR)/clone 2>&1)" = "$(CURDIR)" ] || find src tests e2e helper model protocol recognise repository webhook-certs -name '*.rs' -exec touch {} +
	@echo "$(CURDIR)" >$(CARGO_TARGET_DIR)/clone

.PHONY: help
help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

.PHONY: test
test: lint unit e2e ## Runs lints, unit and repository tests, and all scenarios on the cluster
	@echo "make test: all passed"

.PHONY: tools
tools: ## Builds the programs of the tests into the cache (Kubernetes, restic, ...); takes minutes, once per machine
	@$(cluster)/build

.PHONY: build
build: own tools ## Builds the binary, and the helper that is injected into pods
	@echo "building stowaway (about 6 minutes on a new machine, seconds later) ..."
	@$(cargo) build --release
	@helper/build >/dev/null

.PHONY: lint
lint: own tools ## Checks formatting, and runs clippy
	@echo "checking format and lints ..."
	@$(cargo) fmt --all --check
	@$(cargo) clippy --release --workspace --all-targets -- -D warnings

.PHONY: unit
unit: build ## Runs the tests that need no cluster, some of them with the real restic
	RUST_TEST_THREADS=4 cargo test --release --no-fail-fast

.PHONY: check
check: ## The quick loop while you write: format, lints and unit tests, without the cluster and without optimization
	@cargo fmt --all --check
	@cargo clippy --quiet --workspace --all-targets -- -D warnings
	@cargo test --quiet --workspace --lib --bins
	@cargo test --quiet --test architecture

.PHONY: image-push
image-push: build ## Builds the image without a container engine and pushes it (REGISTRY=registry.example.com/backup)
	@[ -n "$(REGISTRY)" ] || { echo "make image-push: set REGISTRY to the registry and path to push to" >&2; exit 2; }
	@STOWAWAY_REGISTRY=$(REGISTRY) e2e/images/build stowaway $(CARGO_TARGET_DIR)/release/stowaway

.PHONY: cluster
cluster: build ## Starts the test cluster, and installs Stowaway in it
	@$(cluster)/up
	@e2e/images/build
	@e2e/images/build stowaway $(CARGO_TARGET_DIR)/release/stowaway
	@e2e/install

.PHONY: e2e
e2e: cluster ## Runs all scenarios on the cluster
	RUST_TEST_THREADS=4 cargo test --release --no-fail-fast --package stowaway-e2e

.PHONY: demo
demo: cluster ## Shows a backup, a loss and a restore of a database
	@e2e/demo

.PHONY: soak
soak: cluster ## Runs the soak tests, with hundreds of stalls, cuts and kills (hours)
	@$(cargo) run --release --package stowaway-e2e --bin soak_repository
	@$(cargo) run --release --package stowaway-e2e --bin soak

.PHONY: bench
bench: cluster bench-admission bench-repository bench-recognise ## Measures rate, CPU and peak memory against kubectl exec | restic backup --stdin (BENCH_OPTIONS='--sizes 1024')
	@$(cargo) run --release --package stowaway-e2e --bin bench -- $(BENCH_OPTIONS)

.PHONY: bench-admission
bench-admission: cluster ## Measures latency, CPU and memory of the webhook against a minimal handler
	@$(cargo) run --release --package stowaway-e2e --bin admission

.PHONY: bench-repository
bench-repository: build ## Measures backups of folders, checks, prunes and 10,000 snapshots against restic; needs no cluster
	@$(cargo) run --release --package stowaway-e2e --bin bench_repository -- $(BENCH_REPOSITORY_OPTIONS)

.PHONY: bench-recognise
bench-recognise: ## Measures the recognition of dump formats against SHA-256; needs no cluster
	@$(cargo) run --release --package stowaway-e2e --bin bench_recognise -- $(BENCH_RECOGNISE_OPTIONS)

.PHONY: fuzz
fuzz: ## Runs each fuzz target for an hour (FUZZ_SECONDS); needs a nightly Rust and cargo-fuzz
	@cd fuzz && for target in annotations protocol admission; do \
		cargo +nightly fuzz run --sanitizer none $$target -- -max_total_time=$(or $(FUZZ_SECONDS),3600); done

.PHONY: manifests
manifests: own ## Writes the generated manifests and the table of docs/annotations.md
	@$(cargo) run --release --bin stowaway -- manifests --output manifests
	@e2e/update-docs

.PHONY: down
down: ## Stops and removes the test cluster
	@$(cluster)/down
