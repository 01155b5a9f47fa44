# What one does in a checkout. Each target does its own set-up: it needs Python 3.11 or newer, make, and the registries.

# The system's own Python if it will do: distributions build theirs with a profile of what programs do, which others (pyenv
# for one) leave out unless they are told to. That is worth a tenth of what a request costs.
SYSTEM_PYTHON := /usr/bin/python3
CAN_RUN_US := import ensurepip, sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell $(SYSTEM_PYTHON) -c '$(CAN_RUN_US)' 2>/dev/null && echo $(SYSTEM_PYTHON) || echo python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# Two installs are the same: exact versions, known hashes, nothing resolved.
INSTALL := $(PIP) install --no-deps --require-hashes

.PHONY: help run stop test lint bench growth lock clean

help:
	@echo 'make run     start Wiremeter, send one prompt through it, show what it cost'
	@echo 'make stop    stop everything'
	@echo 'make test    format, lint, types, tests'
	@echo 'make lint    the first three of these'
	@echo 'make bench   measure what everything costs (some minutes; one with QUICK=1)'
	@echo 'make growth  measure how cost grows, and draw it'
	@echo 'make lock    choose new versions of what we depend on'
	@echo 'make clean   remove the virtual environment and what tools have left'

run: .venv/installed
	@$(BIN)/python -m services.cli up

stop: .venv/installed
	@$(BIN)/python -m services.cli down

# All of them, whatever the first one says; pytest last, so that its closing line is.
test: .venv/installed-dev
	@failed=0; \
	$(BIN)/ruff format --check . || failed=1; \
	$(BIN)/ruff check . || failed=1; \
	$(BIN)/mypy services || failed=1; \
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 || failed=1; \
	exit $$failed

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy services

bench: .venv/installed-dev
	@$(BIN)/python -m bench $(if $(QUICK),--quick)

growth: .venv/installed-dev
	@$(BIN)/python -m bench.growth $(if $(QUICK),--quick)

# The versions that are in the lock stay unless UPGRADE=--upgrade.
lock: COMPILE = CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/pip-compile --quiet $(UPGRADE) --generate-hashes --allow-unsafe --all-build-deps --strip-extras \
	--no-annotate --no-emit-index-url --no-emit-find-links
lock: .venv/installed
	$(PIP) install pip-tools
	$(COMPILE) --output-file requirements.lock pyproject.toml
	$(COMPILE) --constraint requirements.lock --extra dev --output-file requirements-dev.lock pyproject.toml

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Wiremeter needs Python 3.11 or newer; \
	$(PYTHON) is %d.%d. Name another one: make PYTHON=python3.12" % sys.version_info[:2])'
	@# A virtual environment whose interpreter has gone, or that was left half made, is made again.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo 'installing what Wiremeter needs into .venv …'
	@$(INSTALL) -r requirements.lock
	@# setuptools comes from the lock too.
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@# As pip does with packages: nine processes start, and where PYTHONDONTWRITEBYTECODE is set each would compile anew.
	@$(BIN)/python -m compileall -q services
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.lock
	@echo 'installing what the tests need into .venv …'
	@$(INSTALL) -r requirements-dev.lock
	@touch $@
