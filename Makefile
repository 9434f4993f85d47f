# The project's commands. pip's environment variables (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS ...) apply:
# an index with CPU builds of torch makes the environment much smaller.
SHELL := /bin/sh
PYTHON ?= $(shell for python in python3.12 python3.11 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= config.toml
MIN_FREE_GB ?= 8
PYTEST ?= -n 2 --dist worksteal
DEMO ?=
# Rooms whose tests need no other program and no model.
UNIT := tests/journal tests/receive tests/report tests/analyze tests/test_config.py tests/test_toml.py \
	tests/test_files.py tests/test_laws.py tests/test_readme.py

.PHONY: help venv demo serve test check coverage test-viewer lint bench
.DEFAULT_GOAL := help

help:
	@echo 'make venv         the runtime environment in $(VENV); fetches about 5.4 GB, most of it torch with CUDA'
	@echo 'make demo         a PACS and the node on this machine, with phantoms (DEMO="--input wrist.jpg" for others)'
	@echo 'make serve        the node with $(CONFIG), which is written first if it does not exist'
	@echo 'make test         all tests but those in a browser (PYTEST="-k name" for some); installs tools as needed'
	@echo 'make check        the fast lane: lint, types and unit tests, in less than 3 minutes'
	@echo 'make coverage     the tests of make test, with the share of lines and branches that they reach'
	@echo 'make test-viewer  web pages, and results in OHIF, in Chromium; installs Chromium, npm fetches OHIF'
	@echo 'make lint         ruff, mypy and, if it is installed, shellcheck'
	@echo 'make bench        the benchmarks'

venv: $(VENV)/.runtime

$(VENV)/bin/python:
	@[ -n "$(PYTHON)" ] || { echo 'no Python 3.11, 3.12 or 3.13 found; set PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || scripts/install-tools python3-venv
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	@if ! $(BIN)/python -c 'import torch' 2>/dev/null; then \
		free=$$(( $$(df -Pk $(VENV) | awk 'NR == 2 { print $$4 }') / 1048576 )); \
		echo "Installing the runtime into $(VENV): about 5.4 GB, most of it torch; $$free GB are free here."; \
		if [ "$$free" -lt $(MIN_FREE_GB) ]; then \
			echo 'That is too little: the installation needs $(MIN_FREE_GB) GB.' >&2; \
			echo 'With an index of CPU builds of torch, less is enough: make venv MIN_FREE_GB=2' >&2; exit 1; \
		fi; \
	fi
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

demo: $(VENV)/.runtime
	@command -v Orthanc >/dev/null || [ -x /usr/sbin/Orthanc ] || docker info >/dev/null 2>&1 \
		|| podman info >/dev/null 2>&1 || scripts/install-tools orthanc
	$(BIN)/pacs-node demo $(DEMO)

serve: $(VENV)/.runtime
	@[ -e $(CONFIG) ] || $(BIN)/pacs-node config init $(CONFIG)
	$(BIN)/pacs-node --config $(CONFIG) serve

test: $(VENV)/.test
	@scripts/install-tools
	$(BIN)/python -m pytest -m 'not browser' $(PYTEST)

check: lint
	$(BIN)/python -m pytest -q -m 'not slow and not browser' $(PYTEST) $(UNIT)

coverage: $(VENV)/.test
	@scripts/install-tools
	$(BIN)/python -m pytest -m 'not browser' $(PYTEST) --cov --cov-report=term --cov-report=html:htmlcov

test-viewer: $(VENV)/.test
	@scripts/install-tools orthanc orthanc-dicomweb orthanc-webviewer dcmtk chromium npm
	$(BIN)/python -m pytest -m browser -n 0 tests/viewer tests/web

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if command -v shellcheck >/dev/null; then shellcheck scripts/install-tools .ci/run; \
		else echo 'no shellcheck: the shell scripts were not checked'; fi

bench: $(VENV)/.runtime
	@for name in ingest stages backlog; do echo "== $$name"; $(BIN)/python "benchmarks/$$name.py" || exit 1; done
