# Every target does its own set-up: a fresh Debian 12 with python3 (3.11 or newer), git and make is enough.
#
#   PYTHON       the interpreter the virtual environment is made with (default: the first that is new enough)
#   VENV         where the virtual environment lives (default: .venv)
#   WORKERS      how many tests run side by side, 0: one after the other (default: auto, one for each core, up to 4)
#   PYTEST_ARGS  more arguments for pytest, such as PYTEST_ARGS="tests/core -x"
#   ROUNDS, SEED, RUN_AS, DURATION  of `make torture` and `make soak`: docs/robustness.md

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

VENV ?= .venv
PYTHON ?=
PYTEST_ARGS ?=
WORKERS ?= auto
ROUNDS ?= 500
DURATION ?= 1h
SEED ?=
RUN_AS ?=
export VENV PYTHON

BIN := $(VENV)/bin
SETUP := pyproject.toml scripts/setup-venv

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(VENV)/.installed ## a daemon with a small lab to play with; Ctrl-C ends it and leaves nothing behind
	@exec $(BIN)/hostmanager demo

.PHONY: test
test: $(VENV)/.installed-dev ## run the whole test suite
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist loadgroup --maxschedchunk 1 $(PYTEST_ARGS)

REFEREE = $(BIN)/python -m tests.referee $(if $(SEED),--seed $(SEED)) $(if $(RUN_AS),--user $(RUN_AS))

.PHONY: torture
torture: $(VENV)/.installed-dev ## kill the daemon ROUNDS times (500), RUN_AS=USER if not as you are, and check what must always hold
	$(REFEREE) --rounds $(ROUNDS)

.PHONY: soak
soak: $(VENV)/.installed-dev ## run one daemon for DURATION (1h), kill something every second, and compare what it uses
	$(REFEREE) --soak $(DURATION)

.PHONY: engine
engine: ## install and start the Docker engine that the tests use (root, Debian); scripts/setup-engine stop ends it
	@scripts/setup-engine

.PHONY: check
check: check-ruff check-types check-imports check-contract check-stubs ## lint, format, types, import rules, contract
	@echo "make check: all is well"

.PHONY: fmt
fmt: $(VENV)/.installed-dev ## format the code and fix what can be fixed
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/buf format --write

.PHONY: proto
proto: $(VENV)/.installed-dev ## generate the stubs from the contract anew
	scripts/generate-stubs protos

.PHONY: bench
bench: $(VENV)/.installed-dev ## run the benchmarks and print the table
	$(BIN)/python -m benchmarks

.PHONY: check-ruff check-types check-imports check-contract check-stubs
check-ruff: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: $(VENV)/.installed-dev
	$(BIN)/mypy

check-imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports --no-logo

check-contract: $(VENV)/.installed-dev
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	scripts/check-breaking

check-stubs: $(VENV)/.installed-dev
	scripts/check-stubs

# Running needs less than developing, so `make demo` on a fresh machine fetches less. A development install
# serves for both.
$(VENV)/.installed: $(SETUP)
	@scripts/setup-venv .

$(VENV)/.installed-dev: $(SETUP)
	@scripts/setup-venv '.[dev]'
