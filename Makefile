# Two commands do everything on a machine with Python 3.11 to 3.13 and make:
#   make demo    virtual environment, install, the demo on real images (IMAGES=500: on fewer of them)
#   make test    virtual environment, development extras, lint, the whole test suite
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs clean

demo: $(VENV)/installed-demo
	$(BIN)/lookalike demo --out demo $(if $(IMAGES),--images $(IMAGES))

test: lint
	$(BIN)/pytest -n auto --dist loadfile

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages that are made from the code; a test fails when they are stale.
docs: $(VENV)/installed-dev
	$(BIN)/python docs/generate.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --editable '.[demo]'
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
