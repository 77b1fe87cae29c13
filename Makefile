# `make demo` and `make test` set up what they need, and do everything. Needs Python 3.11+ and package registries.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# The first interpreter that starts (a version manager's shim may not) and is new enough.
PYTHON ?= $(shell for p in python3.12 python3.13 python3.11 python3.14 python3; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && echo "$$p" && break; done)
VENV := .venv
BIN := $(VENV)/bin
PEERS := .bench/peers
SCRIPTS := .ci/run $(shell find airflow_provider_sparkdeps -name '*.sh')
UNIT := tests/utils tests/environments tests/archives tests/spark/closures tests/test_levels.py tests/test_public_names.py
# As pip does, trust the machine's certificates; never fetch an interpreter unasked.
export UV_SYSTEM_CERTS ?= true
export UV_PYTHON_DOWNLOADS ?= never

.PHONY: help setup demo unit test soak peer bench lint types shellcheck check constraints clean

help:
	@echo 'make demo         run the main job on an embedded Spark Connect cluster and a local Airflow'
	@echo 'make unit         the tests that need neither Spark nor Airflow, in a minute'
	@echo 'make test         lint, types and all tests, on a real Spark Connect server and a real Airflow'
	@echo 'make soak         the tests that take long: large environments, servers and an Airflow that are killed'
	@echo "make peer         PySpark's own tests, in stock sessions and in ours; takes hours"
	@echo 'make bench        compare the speed with that of other tools; takes an hour'
	@echo 'make check        lint and types only: ruff, mypy and shellcheck'
	@echo 'make constraints  resolve the pinned versions again'
	@echo 'make clean        remove what the others made'

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo 'No Python 3.11 or later (with venv) was found on PATH. Install one, or set PYTHON.'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/sparkdeps demo

soak: setup
	$(BIN)/python -m pytest -m soak $(ARGS)

peer: setup
	$(BIN)/python -m tests.peer $(ARGS)

bench: setup $(PEERS)/.done
	$(BIN)/python -m benchmarks $(ARGS)

# The tools that the benchmarks compare with are kept apart from the package's own dependencies.
$(PEERS)/.done: benchmarks/peers.txt $(VENV)/.done
	$(BIN)/python -m venv $(PEERS)
	$(BIN)/uv pip install --quiet --python $(PEERS)/bin/python --requirement benchmarks/peers.txt
	touch $@

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

# Python fills in values that the scripts do not assign (SC2154).
shellcheck: setup
	$(BIN)/shellcheck --severity warning --exclude SC2154 $(SCRIPTS)

check: lint types shellcheck

unit: setup
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not soak and not cluster and not slow' $(UNIT) $(ARGS)

test: check
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

constraints: setup
	$(BIN)/uv pip compile --quiet --upgrade --python-version 3.11 --no-annotate --no-header --no-emit-index-url \
		--extra dev pyproject.toml | grep -E '^[A-Za-z0-9._-]+==' > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) .demo .bench build dist
