# bulkhead: `make help` lists what there is. Everything that is fetched or built lies outside the clone, in
# BULKHEAD_CACHE, so a second clone starts warm.

export BULKHEAD_CACHE ?= $(HOME)/.cache/bulkhead
export CARGO_TARGET_DIR ?= $(BULKHEAD_CACHE)/target
export ORT_DYLIB_PATH ?= $(BULKHEAD_CACHE)/onnxruntime/libonnxruntime.so

LISTEN ?= 127.0.0.1:8080
CONFIG ?= config
DATA ?= data
# More arguments for the daemon, e.g. ARGS="--kafka localhost:9092".
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup build run test check bench

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Installs and fetches what building and testing needs
	@scripts/setup.sh

build: ## Builds the daemon for use
	@scripts/setup.sh run
	@scripts/claim-target.sh
	cargo build --locked --release --bin bulkhead

run: build ## Runs the daemon on the embedded log; LISTEN, CONFIG, DATA and ARGS can be set
	@mkdir -p $(DATA)
	exec $(CARGO_TARGET_DIR)/release/bulkhead run --config $(CONFIG) --data $(DATA) --listen $(LISTEN) $(ARGS)

test: ## Runs every test, with the time each part took
	@scripts/test.sh

check: ## Runs format, lint, unit and actor tests alone: no broker
	@scripts/test.sh format lint unit actors

bench: ## Measures against the bare limits; writes target/bench.jsonl
	@scripts/setup.sh
	@scripts/claim-target.sh
	cargo build --locked --release -p bulkhead-limits
	cargo bench --locked --bench bench
