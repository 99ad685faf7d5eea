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
# Tests use the profile `dev`, which compiles quickly. Benchmarks and soak tests use `release`.
profile := dev
soak bench bench-admission bench-repository bench-recognise: profile := release
export STOWAWAY_BUILT = $(CARGO_TARGET_DIR)/$(patsubst dev,debug,$(profile))
phase := e2e/phase
# One selection of packages and targets for all tests, because another one would compile dependencies again, with other
# features. Which of the programs run is decided by e2e/only.
tests := test --workspace --lib --bin stowaway-helper --test '*'
run_tests := cargo --config "target.'cfg(all())'.runner='$(CURDIR)/e2e/only'" $(tests) --no-fail-fast
cluster_tests := disruptive|scenarios
run_disruptive := TEST_PROGRAMS=disruptive $(phase) "disruptive scenarios" $(run_tests)
# Both wait for much of the time: integration tests for programs, and scenarios for the cluster.
run_scenarios := RUST_TEST_THREADS=6 TEST_PROGRAMS=scenarios $(phase) "scenarios" $(run_tests)
run_units := RUST_TEST_THREADS=6 TEST_PROGRAMS_NOT='$(cluster_tests)' $(phase) --quiet "unit and integration tests" nice $(run_tests)

.NOTPARALLEL:

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
test: lint compiled installed ## Runs lints, unit and integration tests, and all scenarios on the cluster
	@# Side by side, because the disruptive scenarios run one at a time and mostly wait. The cluster comes first (`nice`).
	@echo "running the unit and integration tests beside the disruptive scenarios ..."
	@$(run_units) & units=$$!; status=0; \
		$(run_disruptive) || status=$$?; \
		wait $$units || status=$$?; exit $$status
	@$(run_scenarios)
	@$(phase) --report
	@echo "make test: all passed"

# Only the phases of this call of make count.
.PHONY: begin
begin:
	@mkdir -p $(CARGO_TARGET_DIR)
	@$(phase) --begin

.PHONY: tools
tools: begin ## Builds the programs of the tests into the cache (Kubernetes, restic, ...); takes minutes, once per machine
	@$(phase) "programs of the tests" $(cluster)/build $(parts)

.PHONY: build
build: own tools helper ## Builds the binary, and the helper that is injected into pods
	@echo "building stowaway (minutes on a new machine, seconds later) ..."
	@$(phase) "compiling stowaway" $(cargo) build --profile $(profile)

.PHONY: helper
helper: own
	@$(phase) "compiling the helper" bash -c 'helper/build >/dev/null'

.PHONY: compiled
compiled: own tools helper
	@echo "building stowaway and the tests (minutes on a new machine and after a change, seconds later) ..."
	@$(phase) "compiling stowaway and the tests" $(cargo) $(tests) --no-run

.PHONY: lint
lint: own tools deny ## Checks formatting, and runs clippy
	@echo "checking format and lints ..."
	@$(cargo) fmt --all --check
	@$(phase) "clippy" $(cargo) clippy --workspace --all-targets -- -D warnings

.PHONY: unit
unit: compiled ## Runs the tests that need no cluster, some of them with the real restic
	@$(subst --quiet ,,$(run_units))

.PHONY: check
check: ## The quick loop while you write: format, lints and unit tests, without the cluster
	@cargo fmt --all --check
	@cargo clippy --quiet --workspace --all-targets -- -D warnings
	@cargo test --quiet --workspace --lib --bins
	@cargo test --quiet --test architecture

.PHONY: deny
deny: ## Checks the licenses and the sources of all dependencies (deny.toml)
	@packaging/deny

.PHONY: deny-advisories
deny-advisories: ## Checks the dependencies for known vulnerabilities, in a database which it downloads
	@packaging/deny --advisories

.PHONY: image
image: ## Builds the image for amd64 and arm64 as an OCI archive, without a container engine (20 minutes each; ARCHITECTURES=amd64)
	@packaging/image

.PHONY: image-push
image-push: ## Builds the image and pushes it (REGISTRY=registry.example.com/backup)
	@[ -n "$(REGISTRY)" ] || { echo "make image-push: set REGISTRY to the registry and path to push to" >&2; exit 2; }
	@packaging/image --push "$(REGISTRY)"

.PHONY: release
release: ## Builds the archives, image, SBOM, checksums and krew manifest of a release (URL=https://..., IMAGE=REFERENCE)
	@URL="$(URL)" IMAGE="$(IMAGE)" packaging/release

.PHONY: cluster
cluster: build installed ## Starts the test cluster, and installs Stowaway in it

.PHONY: installed
installed: helper
	@$(phase) "starting the cluster" $(cluster)/up $(storage)
	@$(phase) "images of the tests" e2e/images/build $(images)
	@$(phase) "image of stowaway" e2e/images/build stowaway $(or $(STOWAWAY_BINARY),$(STOWAWAY_BUILT)/stowaway)
	@$(phase) "installing stowaway" e2e/install

.PHONY: e2e
e2e: compiled installed ## Runs all scenarios on the cluster
	@$(run_disruptive)
	@$(run_scenarios)

.PHONY: demo
# Builds and starts only what the demo uses. Without these variables, everything is.
demo: parts := crane containerd coredns kubernetes versitygw restic
demo: images := pause coredns versitygw busybox postgres
demo: storage := --without-storage
demo: cluster ## Shows a backup, a loss and a restore of a database
	@$(phase) "demo" e2e/demo
	@$(phase) --report

.PHONY: soak
soak: cluster ## Runs the soak tests, with hundreds of stalls, cuts and kills (hours)
	@$(cargo) run --profile $(profile) --package stowaway-e2e --bin soak_repository
	@$(cargo) run --profile $(profile) --package stowaway-e2e --bin soak

.PHONY: bench
bench: cluster bench-admission bench-repository bench-recognise ## Measures rate, CPU and peak memory against kubectl exec | restic backup --stdin (BENCH_OPTIONS='--sizes 1024')
	@$(cargo) run --profile $(profile) --package stowaway-e2e --bin bench -- $(BENCH_OPTIONS)

.PHONY: bench-admission
bench-admission: cluster ## Measures latency, CPU and memory of the webhook against a minimal handler
	@$(cargo) run --profile $(profile) --package stowaway-e2e --bin admission

.PHONY: bench-repository
bench-repository: build ## Measures backups of folders, checks, prunes and 10,000 snapshots against restic; needs no cluster
	@$(cargo) run --profile $(profile) --package stowaway-e2e --bin bench_repository -- $(BENCH_REPOSITORY_OPTIONS)

.PHONY: bench-recognise
bench-recognise: ## Measures the recognition of dump formats against SHA-256; needs no cluster
	@$(cargo) run --profile $(profile) --package stowaway-e2e --bin bench_recognise -- $(BENCH_RECOGNISE_OPTIONS)

.PHONY: fuzz
fuzz: ## Runs each fuzz target for an hour (FUZZ_SECONDS); needs a nightly Rust and cargo-fuzz
	@cd fuzz && for target in annotations protocol admission; do \
		mkdir -p found/$$target && \
		cargo +nightly fuzz run --sanitizer none $$target found/$$target corpus/$$target -- -max_total_time=$(or $(FUZZ_SECONDS),3600); done

.PHONY: manifests
manifests: own ## Writes the generated manifests and the table of docs/annotations.md
	@$(cargo) run --bin stowaway -- manifests --output manifests
	@e2e/update-docs

.PHONY: down
down: ## Stops and removes the test cluster
	@$(cluster)/down
