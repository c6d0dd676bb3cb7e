# make demo, make test: all that a machine with Python, make and a C++ compiler needs.
PYTHON ?= python3
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Lint and documentation need one core each.
MAKEFLAGS += --jobs=2
.PHONY: help demo test test-slow test-engines bench bench-grid gpu gpu-sanitize docs format lint clean

VENV := .venv
BIN := $(VENV)/bin
# Most modules of what is installed are never imported, so none are compiled ahead.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile \
    --constraint constraints.txt
SOURCES := CMakeLists.txt setup.py $(wildcard csrc/*)

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

# --- Set-up, by stamps in .venv --------------------------------------------------------------

$(VENV)/created: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    f"pyfed needs Python 3.11 or newer; this is {sys.version.split()[0]}. Try: make PYTHON=python3.12")'
	@echo "Set-up 1 of 3: the build tools, in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) cmake ninja pybind11 scikit-build-core setuptools
	@touch $@

$(VENV)/built: $(VENV)/created pyproject.toml $(SOURCES)
	@echo "Set-up 2 of 3: pyfed and what the demo needs (PyTorch among it; the C++ build takes a minute)"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(INSTALL) --no-build-isolation --editable '.[demo]'
	@touch $@

$(VENV)/tools: $(VENV)/built constraints.txt pyproject.toml
	@echo "Set-up 3 of 3: what the tests and the documentation need"
	$(INSTALL) 'pyfed-kernels[test,docs]'
	@touch $@

# --- Targets ---------------------------------------------------------------------------------

demo: $(VENV)/built ## set up, then train a model on real data with secure aggregation
	$(BIN)/python examples/secure_fedavg.py

PYTEST := $(BIN)/python -P -m pytest --quiet --numprocesses auto --maxprocesses 4

lint: $(VENV)/tools
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror csrc/*
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/typos

test: lint docs ## set up, then check style and run every test that this machine can run
	$(PYTEST) -m 'not slow and not engines' --benchmark-disable tests benchmarks

test-slow: $(VENV)/tools ## the full counts of the tests
	$(PYTEST) -m slow tests

test-engines: $(VENV)/tools ## rounds between processes of this machine, with some of them lost
	$(BIN)/python -P -m pytest --quiet -m engines tests/engines

bench: $(VENV)/tools ## measure every op against named baselines; refresh benchmarks/results and README
	mkdir -p build
	$(BIN)/python -P -m pytest --quiet benchmarks --benchmark-json=build/bench.json
	$(BIN)/python benchmarks/report.py build/bench.json --json 'benchmarks/results/{machine}.json' \
	    --plot 'benchmarks/results/{machine}.png'
	$(BIN)/python benchmarks/report.py --readme README.md

bench-grid: $(VENV)/tools ## measure the field kernels over all sizes (hours); see benchmarks/README.md
	$(BIN)/python benchmarks/grid.py $(GRID)

gpu: ## build, test and benchmark on a GPU, with python3 as it is; report in $$OUT or build/gpu
	.ci/gpu

gpu-sanitize: ## small cases of every kernel under compute-sanitizer
	.ci/gpu sanitize

docs: $(VENV)/tools ## the documentation, in docs/_build/html
	$(BIN)/sphinx-build --quiet -W --keep-going docs docs/_build/html

format: $(VENV)/tools ## put Python and C++ into the project's form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i csrc/*

clean: ## remove everything that make made
	rm -rf $(VENV) build dist docs/_build pyfed/*.so *.egg-info runs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
