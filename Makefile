# `make demo` and `make test` do everything on a fresh machine: virtual environment, installation, run.
# A second call finds the environment ready and starts at once.
#
# PYTHON=python3.12            another interpreter (3.11 or later)
# PIP_FLAGS="..."              further options of pip, such as an index that has a build of torch without CUDA (3 GB smaller)

SHELL := /bin/bash
PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) --constraint constraints.txt
DEMO = $(BIN)/holdfast train --data digits --parameter-radius 60 --out runs/demo --overwrite

.PHONY: demo test mutants docs bench clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo    install what is needed, train on digits, certify, write runs/demo/report.html"
	@echo "make test    install what is needed, then linter, formatter, type checker and tests"
	@echo "make mutants break the proofs' constants one by one: the tests must notice each (long)"
	@echo "make docs    build the documentation site into build/site; a warning is an error"
	@echo "make bench   every figure of benchmarks/RESULTS.md (long)"
	@echo "make clean   remove the virtual environment and all that was built; runs/ stays"

demo: $(VENV)/.ready
	@$(DEMO)

test: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

mutants: $(VENV)/.ready-dev
	$(BIN)/python tests/mutants.py

docs: $(VENV)/.ready-dev
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs build/site
	@echo "Open build/site/index.html"

bench: $(VENV)/.ready-dev
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# pip: -qq leaves errors only. No stamp is written when a step fails, so that the next call starts that step again.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Holdfast needs Python 3.11 or later, '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing); install one and name it: make PYTHON=python3.11 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Holdfast needs Python's venv module, which '$(PYTHON)' lacks; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.ready: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing Holdfast into $(VENV): once, one to three minutes, mostly torch ..."
	@SECONDS=0; $(PIP) --editable . && echo "Installed in $$SECONDS s."
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo "Installing the test tools: once, under a minute ..."
	@SECONDS=0; $(PIP) --editable '.[dev]' && echo "Installed in $$SECONDS s."
	@touch $@
