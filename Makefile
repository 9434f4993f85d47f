# The project's commands. pip's own environment variables (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS ...)
# pass through: an index with CPU builds of torch shrinks the environment to a fraction.
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

.PHONY: help venv demo serve test test-viewer lint bench
.DEFAULT_GOAL := help

help:
	@echo 'make venv    the runtime environment in $(VENV): fetches about 5.4 GB, most of it torch with CUDA'
	@echo 'make demo    a PACS and the node on this machine, with phantoms (DEMO="--input wrist.jpg" for others)'
	@echo 'make serve   the node, as $(CONFIG) says; writes that file first where there is none'
	@echo 'make test    all tests (PYTEST="-k name" for some); installs Orthanc, dcmtk and validators where it can'
	@echo 'make test-viewer    the web page, and the results as OHIF shows them, in Chromium; installs it, npm fetches OHIF'
	@echo 'make lint    ruff, mypy, and shellcheck where it is installed'
	@echo 'make bench   the benchmarks'

venv: $(VENV)/.runtime

$(VENV)/bin/python:
	@[ -n "$(PYTHON)" ] || { echo 'no Python 3.11, 3.12 or 3.13 found; name one with PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || scripts/install-tools python3-venv
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	@if ! $(BIN)/python -c 'import torch' 2>/dev/null; then \
		free=$$(( $$(df -Pk $(VENV) | awk 'NR == 2 { print $$4 }') / 1048576 )); \
		echo "Installing the runtime into $(VENV): about 5.4 GB, most of it torch; $$free GB are free here."; \
		if [ "$$free" -lt $(MIN_FREE_GB) ]; then \
			echo 'That is too little: $(MIN_FREE_GB) GB are needed while it installs.' >&2; \
			echo 'With an index of CPU builds of torch less will do: make venv MIN_FREE_GB=2' >&2; exit 1; \
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
