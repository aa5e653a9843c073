# The commands of this project; `make help` lists them. Each leaves the work tree as it was.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
LANDBRIDGE := $(TARGET)/debug/landbridge
PURE := landbridge-identity landbridge-svid landbridge-policy landbridge-wire landbridge-handshake \
        landbridge-peering landbridge-gateway-core

.PHONY: help setup build release fuzz fuzz-smoke demo test bench beside floods joined mutated fmt lint doc deny fences unit sim-long

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing on a Debian machine (root)
	@scripts/setup

build: ## all programs, optimised enough for packets and with overflow checks
	$(CARGO) build --locked --workspace --bins

demo: setup build ## two clusters on this machine: up, check every fact twice, down (root)
	$(LANDBRIDGE) demo up
	$(LANDBRIDGE) demo check --full || { $(LANDBRIDGE) demo down --keep-logs; exit 1; }
	$(LANDBRIDGE) demo down

test: fmt fences lint doc deny unit ## everything that CI runs (the demo's part needs root)

bench: ## all figures: the parts beside bare cryptography, then `make beside`, `make floods` and `make joined` (root): docs/benchmarks.md
	scripts/bench
	@$(MAKE) beside floods joined

release:
	$(CARGO) build --locked --release -p landbridge-gateway -p landbridge-agent -p landbridge-cli -p landbridge-loadtest

beside: release ## two gateways beside wireguard-go and plain routing (root, Go): docs/benchmarks.md
	scripts/beside

fuzz-smoke: ## every fuzz target for 10 s (nightly compiler)
	scripts/fuzz 10

fuzz: ## every fuzz target for an hour (nightly compiler)
	scripts/fuzz 3600

floods: release ## forged handshakes at a gateway and an agent, while others connect (root): docs/benchmarks.md
	scripts/floods

joined: release ## from `landbridge join` to the first allowed packet (root): docs/benchmarks.md
	scripts/joined

mutated: ## ten million mutated handshakes, none of which may open anything (minutes)
	$(CARGO) test --locked --release -p landbridge-handshake --test attacks ten_million -- --ignored

fmt: ## formatting
	$(CARGO) fmt --all --check

fences: ## what the crates may reach, and that the check can say no
	scripts/purity
	scripts/test-fences

lint: ## clippy, with all warnings as errors
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked -p landbridge-sim --features faults --test faults -- -D warnings
	$(CARGO) clippy --locked $(PURE:%=-p %) -- -D warnings -D clippy::iter_over_hash_type

doc: ## documentation, with all warnings as errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet

deny: ## bans, licences, sources; advisories where they can be reached
	scripts/deny

unit: build ## all tests
	scripts/test

sim-long: ## 10,000 worlds in the simulator (SIM_SEEDS, from SIM_FIRST on): docs/simulator.md
	SIM_SEEDS=$${SIM_SEEDS:-10000} $(CARGO) test --locked -p landbridge-sim --test seeds -- --nocapture
