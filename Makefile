# Every target works from a fresh clone: the environment is made on first use and renewed when pyproject.toml
# changes. PYTHON chooses the interpreter that the environment is made with (3.11 or newer).
PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
BENCH_BIN := .venv-bench/bin
ifneq ($(wildcard ../shared/data/tfds),)
export TFDS_DATA_DIR ?= $(abspath ../shared/data/tfds)
endif

.PHONY: help install demo test test-slow lint bench bench-env parity clean
.DEFAULT_GOAL := help

help:  ## these lines
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "make %-10s %s\n", $$1, $$2}'

.venv/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "jaxrobust needs Python 3.11 or newer: remove .venv, then make PYTHON=python3.11 ..."; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

.venv-bench/.installed: pyproject.toml
	@test -x $(BENCH_BIN)/python || $(PYTHON) -m venv .venv-bench
	@$(BENCH_BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "jaxrobust needs Python 3.11 or newer: remove .venv-bench, then make PYTHON=python3.11 ..."; exit 1; }
	$(BENCH_BIN)/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	$(BENCH_BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BENCH_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'torchattacks==3.5.1' 'cleverhans==4.0.0' 'captum==0.9.0'
	$(BENCH_BIN)/python -c 'import art, captum, cleverhans, foolbox, jaxrobust, pyautoattack, torch, torchattacks'
	@touch $@

install: .venv/.installed  ## the environment in .venv with the command jaxrobust in it

demo: .venv/.installed  ## trains Standard, RT and SRT on 8x8 digits, attacks each, writes ./demo/report.html
	$(BIN)/jaxrobust reproduce digits_demo --runs-dir demo/runs --out demo

# A file stays on one worker, which shares its programs and fixtures.
test: .venv/.installed  ## the tests and the examples in docstrings
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -q

test-slow: .venv/.installed  ## the tests that take minutes
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -q -m slow

lint: .venv/.installed  ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-env: .venv-bench/.installed  ## the environment of the benchmarks, with PyTorch for the comparison

bench: bench-env  ## speed of attacks and training against the peers, and its growth; hours, resumable
	$(BENCH_BIN)/python -m benchmarks

parity: bench-env  ## every attack against Foolbox, ART, torchattacks and AutoAttack's code; hours, resumable
	nice $(BENCH_BIN)/python -m benchmarks.parity

clean:  ## removes caches and builds, keeps runs and environments
	rm -rf .cache .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
