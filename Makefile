# Every target sets up its environment. A fresh Debian 12 with python3 (3.11 or newer), git and make is enough.
#
#   PYTHON       the interpreter of the virtual environment (default: the first that is new enough)
#   VENV         the directory of the virtual environment (default: .venv)
#   WORKERS      the number of parallel tests; 0: one after another (default: one more than processors, up to 4)
#   PYTEST_ARGS  more arguments for pytest, such as PYTEST_ARGS="tests/core -x"
#   TESTS        the tests of `make test-lowest` and `make test-newest` (default: the core; empty: all)
#   ROUNDS, SEED, RUN_AS, DURATION  of `make torture` and `make soak`: docs/explanation/robustness.md

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

VENV ?= .venv
PYTHON ?=
PYTEST_ARGS ?=
# Tests wait for much: a worker more than processors keeps these busy.
WORKERS ?= $(shell expr `nproc` + 1)
ROUNDS ?= 500
DURATION ?= 1h
SEED ?=
RUN_AS ?=
export VENV PYTHON

BIN := $(VENV)/bin
GENERATORS := $(VENV)/generators
LOWEST := $(VENV)/lowest
NEWEST := $(VENV)/newest
LOCK := $(VENV)/lock
export GENERATORS
SETUP := pyproject.toml scripts/setup-venv hatch_build.py server/hostmanager_server/linux/spawn.c
PYTEST := -m pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist loadgroup --maxschedchunk 1

# Tests of test-lowest and test-newest: the parts that call the dependencies, without end-to-end tests and without the
# pure core, in a minute or two.
CORE_TESTS := tests/config tests/rpc tests/client \
    tests/drivers/process/test_process.py tests/drivers/test_contract.py tests/drivers/compose/files/test_compose_document.py \
    tests/drivers/compose/files/test_inputs.py tests/state/test_store.py tests/commands/test_serve.py tests/commands/test_config_check.py

TESTS ?= $(CORE_TESTS)
# Tests of test-newest-engine and test-podman.
COMPOSE_TESTS := tests/drivers/compose tests/e2e/test_compose_daemon.py tests/e2e/test_compose_files.py \
    tests/e2e/test_compose_services.py tests/e2e/test_engine_faults.py
PODMAN_TESTS := tests/drivers/compose/engine/test_watch.py tests/drivers/compose/engine/test_watch_projects.py \
    tests/drivers/compose/test_orphans.py tests/drivers/compose/logs/test_reader.py tests/e2e/test_compose_services.py

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(VENV)/.installed ## run a daemon with a small lab; Ctrl-C ends the demo and leaves nothing behind
	@exec $(BIN)/hostmanager demo

.PHONY: test
test: $(VENV)/.installed-dev $(GENERATORS)/.installed ## run the test suite
	$(BIN)/python $(PYTEST) $(PYTEST_ARGS)

.PHONY: test-long
test-long: $(VENV)/.installed-dev ## run the tests of more than 20 s each, which `make test` leaves out
	$(BIN)/python $(PYTEST) -m long $(PYTEST_ARGS)

.PHONY: test-lowest
test-lowest: $(LOWEST)/.installed ## run the core of the suite on the lowest versions of all dependencies
	$(LOWEST)/bin/python $(PYTEST) $(TESTS) $(PYTEST_ARGS)

.PHONY: test-newest
test-newest: $(GENERATORS)/.installed ## lint, types and the core of the suite on the newest versions, not the locked ones
	@scripts/setup-venv newest
	$(NEWEST)/bin/ruff check .
	$(NEWEST)/bin/ruff format --check .
	$(NEWEST)/bin/mypy
	$(NEWEST)/bin/lint-imports --no-logo
	$(NEWEST)/bin/buf lint
	$(NEWEST)/bin/python $(PYTEST) $(TESTS) $(PYTEST_ARGS)

.PHONY: test-newest-engine
test-newest-engine: $(VENV)/.installed-dev ## run the compose tests on the engine and Compose of Debian testing (root, Debian)
	scripts/with-engine newest $(BIN)/python $(PYTEST) $(COMPOSE_TESTS) $(PYTEST_ARGS)

.PHONY: test-podman
test-podman: $(VENV)/.installed-dev ## run the core of the compose tests on the Podman of this machine (root)
	scripts/with-engine podman $(BIN)/python $(PYTEST) $(PODMAN_TESTS) $(PYTEST_ARGS)

.PHONY: lock
lock: $(LOCK)/.installed ## lock the newest versions that pyproject.toml allows, with hashes, into requirements/
	scripts/lock

REFEREE = $(BIN)/python -m tests.referee $(if $(SEED),--seed $(SEED)) $(if $(RUN_AS),--user $(RUN_AS))

.PHONY: torture
torture: $(VENV)/.installed-dev ## kill the daemon ROUNDS times (500), as user RUN_AS (default: you), and check the invariants
	$(REFEREE) --rounds $(ROUNDS)

.PHONY: soak
soak: $(VENV)/.installed-dev ## run one daemon for DURATION (1h), kill a process every second, and compare resources
	$(REFEREE) --soak $(DURATION)

.PHONY: engine
engine: ## install and start the Docker engine of the tests (root, Debian); scripts/setup-engine stop ends the engine
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
proto: $(VENV)/.installed-dev $(GENERATORS)/.installed ## generate the stubs and the reference pages
	scripts/generate-stubs protos
	$(BIN)/python scripts/generate_reference.py

.PHONY: docs
docs: $(VENV)/.installed-docs ## build the pages as a site, in build/site; dead links and missing pages are errors
	$(BIN)/sphinx-build -c docs -d build/doctrees -b html -E -W --keep-going -q . build/site
	@echo "make docs: build/site/index.html"

.PHONY: bench
bench: $(VENV)/.installed-bench $(VENV)/bench/.installed ## run the benchmarks and print the table
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

check-stubs: $(GENERATORS)/.installed
	scripts/check-stubs

# `make demo` on a fresh machine installs only the runtime dependencies. A development install serves for both.
$(VENV)/.installed: $(SETUP) requirements/run.txt
	@scripts/setup-venv run

$(VENV)/.installed-dev: $(SETUP) requirements/dev.txt
	@scripts/setup-venv dev

$(VENV)/.installed-bench: $(SETUP) requirements/bench.txt
	@scripts/setup-venv bench

$(VENV)/bench/.installed: scripts/setup-peers requirements/pm2/package-lock.json
	@scripts/setup-peers

$(VENV)/.installed-docs: $(SETUP) requirements/docs.txt
	@scripts/setup-venv docs

# Separate environments, below the main environment.
$(GENERATORS)/.installed: scripts/setup-venv requirements/generators.txt
	@scripts/setup-venv generators

$(LOWEST)/.installed: $(SETUP) requirements/lowest.txt
	@scripts/setup-venv lowest

$(LOCK)/.installed: scripts/setup-venv requirements/lock.txt
	@scripts/setup-venv lock
