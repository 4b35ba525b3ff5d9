# `make demo` and `make test` need nothing but Python 3.11+: they build .venv on their first call and reuse it after that.
# CONSTRAINTS= installs the newest versions instead of the pinned ones (needed on Python 3.10).

PYTHON ?= python3
CONSTRAINTS ?= constraints-dev.txt
DEMO_ARGS ?=
TEST_ARGS ?=
MATRIX_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS))
STAMP := $(VENV)/.installed

export LIGHTNING_SCALING_DATA ?= ../shared/data

.PHONY: help install demo test lint types bench soak matrix wheel clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    train a small language model and watch its forecasts (DEMO_ARGS=\"--fault lr-spike\" breaks it)"
	@echo "make test    run the tests (TEST_ARGS=\"tests/cli -x\")"
	@echo "make lint    ruff check and format check          make types   mypy --strict"
	@echo "make bench   every benchmark in reduced form      make wheel   build and check the wheel"
	@echo "make soak    faults put into trainings: how many survive (SHORT=1: under four minutes)"
	@echo "make matrix  part of the tests with the oldest and newest versions (MATRIX_ARGS=--list; up to an hour)"
	@echo "make clean   remove what was built"

# torch goes first and alone: everything after it then finds a torch already there.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing into $(VENV) (once; about two minutes)"
	@$(PIP_INSTALL) pip
	@$(PIP_INSTALL) torch
	@$(PIP_INSTALL) --editable . --group dev
	@touch $@

install: $(STAMP)

demo: $(STAMP)
	@$(BIN)/python examples/train_bytes.py $(DEMO_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(TEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	@for script in $(filter-out benchmarks/_% benchmarks/soak.py,$(wildcard benchmarks/*.py)); do \
		echo "== $$script --quick"; $(BIN)/python $$script --quick || exit 1; \
	done

soak: $(STAMP)
	$(BIN)/python benchmarks/soak.py $(if $(SHORT),--quick)

# Makes environments of its own, one after another, and needs none of the Pythons but the one that starts it.
matrix:
	@$(PYTHON) .ci/matrix $(MATRIX_ARGS)

wheel: $(STAMP)
	@PYTHON=$(BIN)/python CONSTRAINTS=$(CONSTRAINTS) .ci/wheel

clean:
	rm -rf build dist demo-output mlruns .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
