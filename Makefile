# Two commands: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO_ARGS ?=
TEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test unit faults lint format lock clean

help:  ## Say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(VENV)/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement infra/local/locks/installer.lock
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

install: $(VENV)/.installed  ## Install everything from the lock, with hashes

demo: install  ## Run the whole loop on real servers and print what it measured
	$(BIN)/freshet demo $(DEMO_ARGS)

test: install  ## Lint, types, imports and all tests, real servers and faults included
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

unit: install  ## The tests that need no server, in seconds
	$(BIN)/python -m pytest tests/unit -q $(TEST_ARGS)

faults: install  ## The tests that kill processes
	$(BIN)/python -m pytest -m faults $(TEST_ARGS)

lint: install  ## Lint and types alone
	$(BIN)/python -m pytest -q tests/unit/test_house.py

format: install  ## Format and sort imports
	$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

lock: install  ## Compile requirements.lock anew, with hashes and without addresses
	$(BIN)/uv pip compile pyproject.toml --quiet --upgrade --extra dev --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --output-file requirements.lock

clean:  ## Stop the local stack and remove what was made here
	if test -x $(BIN)/freshet; then $(BIN)/freshet down; fi
	rm -rf .freshet .freshet-demo .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
