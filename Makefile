# `make demo` and `make test` each work alone on a fresh machine: they set up .venv first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A notice of the documentation theme about its successor; nothing to do with a build.
export NO_MKDOCS_2_WARNING := 1
step = @printf '\n== %s\n' "$(1)"

.PHONY: setup demo test bench docs clean

setup: $(STAMP)

# Runs again only when what is installed changes.
$(STAMP): pyproject.toml constraints.txt
	$(call step,setup: $(VENV))
	$(if $(PYTHON),,$(error no python3 found: mechinterp needs Python 3.11 or newer))$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev,notebooks]'
	@touch $@

demo: setup
	$(BIN)/mechinterp demo --out runs/demo

# One thread per test worker (tests/conftest.py), so two workers fill two cores and no more.
test: setup
	$(call step,format)
	$(BIN)/ruff format --check
	$(call step,lint)
	$(BIN)/ruff check
	$(call step,types)
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(call step,import floors)
	$(BIN)/lint-imports
	$(call step,tests and doctests)
	$(BIN)/pytest -n 2 --dist loadfile
	$(call step,notebooks)
	MECHINTERP_NOTEBOOK_SCALE=small $(BIN)/pytest --nbmake --nbmake-timeout=600 notebooks
	$(call step,docs)
	@# Not --quiet: it hides warnings from --strict too, and then nothing can fail.
	$(BIN)/mkdocs build --strict

bench: setup
	$(BIN)/mechinterp bench training

docs: setup
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
