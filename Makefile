# On a fresh machine `make run` and `make test` are the only two commands anyone needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Modules are compiled on first import; where this variable is set they would be compiled on every one.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup run test test-all lint types bench debian-data debian-text clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## make .venv and install byol_ext with every recipe

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "byol_ext needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile -e '.[all,dev]'
	@touch $@

run: $(STAMP)  ## train, evaluate and report the tiny recipes (runs/quickstart/report.html)
	$(BIN)/byol-ext quickstart

lint: $(STAMP)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy
	$(BIN)/mypy

test: lint types  ## lint, types and the quick tests
	$(BIN)/python -m pytest -n auto -m "not slow"

test-all: lint types  ## the quick tests and the slow ones
	$(BIN)/python -m pytest -n auto

bench: $(STAMP)  ## the benchmarks, side by side with their peers
	$(BIN)/python -m pip install --no-compile -q -e '.[bench]'
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

debian-data:  ## as root on Debian: renderer, soundfont and Fashion-MNIST, which some tests use
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends libfluidsynth3 timgm6mb-soundfont dataset-fashion-mnist

debian-text:  ## as root on Debian: 48 MB of English text for the preset words of cdcd
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends dict-gcide linux-doc-6.1 python3.11-doc perl-doc

clean:  ## remove the environment and caches; runs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
