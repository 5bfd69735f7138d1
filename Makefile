# `make run` and `make test` set up everything they need in .venv; nothing else on the machine changes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard matyan/*.pyx matyan/*.pxi) setup.py pyproject.toml

.PHONY: setup run test lint clean
setup: $(VENV)/.ready

$(VENV)/.ready: $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit("matyan needs Python 3.11 or newer; call: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]'
	touch $@

run: setup
	$(BIN)/matyan up

test: setup
	$(BIN)/python -m pytest -q

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info matyan/_codec.c matyan/*.so
