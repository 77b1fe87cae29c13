# `make demo` and `make test` set up what they need, and do everything. Needs Python 3.11+ and package registries.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# The first interpreter of 3.11-3.13 that really starts (a version manager's shim may not).
PYTHON ?= $(shell for p in python3.12 python3.13 python3.11 python3; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && echo "$$p" && break; done)
VENV := .venv
BIN := $(VENV)/bin
PEERS := .bench/peers
# As pip does, trust the machine's certificates; never fetch an interpreter unasked.
export UV_SYSTEM_CERTS ?= true
export UV_PYTHON_DOWNLOADS ?= never

.PHONY: help setup demo test soak bench lint types check constraints clean

help:
	@echo 'make demo         run the main job on an embedded Spark Connect cluster and a local Airflow'
	@echo 'make test         lint, types and all tests, on a real Spark Connect server and a real Airflow'
	@echo 'make soak         the tests that take long: large environments, servers and an Airflow that are killed'
	@echo 'make bench        how fast it is, against the tools that one would use instead; takes an hour'
	@echo 'make check        lint and types only'
	@echo 'make constraints  resolve the pinned versions anew'
	@echo 'make clean        remove what the others made'

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo 'Python 3.11, 3.12 or 3.13 (with venv) is needed: none was found on PATH'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/sparkdeps demo

soak: setup
	$(BIN)/python -m pytest -m soak $(ARGS)

bench: setup $(PEERS)/.done
	$(BIN)/python -m benchmarks $(ARGS)

# The tools that the benchmarks compare with, away from what the package itself uses.
$(PEERS)/.done: benchmarks/peers.txt $(VENV)/.done
	$(BIN)/python -m venv $(PEERS)
	$(BIN)/uv pip install --quiet --python $(PEERS)/bin/python --requirement benchmarks/peers.txt
	touch $@

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

check: lint types

test: check
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

constraints: setup
	$(BIN)/uv pip compile --quiet --upgrade --python-version 3.11 --no-annotate --no-header --no-emit-index-url \
		--extra dev pyproject.toml | grep -E '^[A-Za-z0-9._-]+==' > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) .demo .bench build dist
