PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check ruff mypy pyright imports docs benchmark

demo: .venv/.installed
	$(BIN)/k1s0-event-store demo

test: .venv/.installed
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 3 --dist loadgroup
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: ruff mypy pyright imports

ruff: .venv/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

mypy: .venv/.installed
	$(BIN)/mypy

pyright: .venv/.installed
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: .venv/.installed
	$(BIN)/lint-imports

docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

benchmark: .venv/.installed
	$(BIN)/python -m pip install --quiet --group benchmarks
	$(BIN)/python benchmarks/run.py

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -e '.[testing]' --group dev
	touch $@
