PYTHON ?= python3
BIN := .venv/bin
RELEASE := .venv-release/bin
DIST ?= dist
INSTALL := -m pip install --quiet --no-deps
LOCKS := .ci/locks
COMPILE = $(RELEASE)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate $(UPGRADE)

.PHONY: demo test coverage check ruff mypy pyright imports docs benchmark dist lock audit

demo: .venv/.installed
	$(BIN)/k1s0-event-store demo

test: .venv/.installed
	$(BIN)/python -m pytest -n 4 --dist loadgroup

# The same tests, a fifth slower: fails below what pyproject.toml asks for.
coverage: .venv/.installed
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 4 --dist loadgroup
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

# The source, the wheel, and beside it the list of what it installs (SBOM, CycloneDX).
dist: .venv/.installed .venv-release/.installed
	$(BIN)/python -m build --no-isolation --outdir $(DIST)
	$(PYTHON) -m venv --clear --without-pip $(DIST)/installed
	$(BIN)/python -m pip --python $(DIST)/installed/bin/python install --quiet --no-deps --require-hashes -r $(LOCKS)/base.txt
	$(BIN)/python -m pip --python $(DIST)/installed/bin/python install --quiet --no-deps $(DIST)/*.whl
	$(BIN)/python -m pip --python $(DIST)/installed/bin/python check
	for wheel in $(DIST)/*.whl; do \
		$(RELEASE)/cyclonedx-py environment --pyproject pyproject.toml --mc-type library --output-reproducible \
			--output-file "$${wheel%.whl}.cdx.json" $(DIST)/installed/bin/python || exit 1; \
	done

# What is locked stays as it is unless it has to change; `make lock UPGRADE=--upgrade` takes the newest of all.
lock: .venv-release/.installed
	$(COMPILE) --no-emit-package k1s0-event-store --extra testing --group dev pyproject.toml -o $(LOCKS)/dev.txt
	$(COMPILE) --constraint $(LOCKS)/dev.txt pyproject.toml -o $(LOCKS)/base.txt
	$(COMPILE) --no-deps $(LOCKS)/oldest.in -o $(LOCKS)/oldest.txt
	$(COMPILE) --group release -o $(LOCKS)/release.txt

# Known weaknesses of what is locked. It asks the package index, and fails where that cannot be asked.
audit: .venv-release/.installed
	$(RELEASE)/pip-audit --strict --disable-pip --require-hashes -r $(LOCKS)/dev.txt -r $(LOCKS)/release.txt

.venv/.installed: pyproject.toml $(LOCKS)/dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python $(INSTALL) --require-hashes -r $(LOCKS)/dev.txt
	$(BIN)/python $(INSTALL) --no-build-isolation -e .
	$(BIN)/python -m pip check --quiet
	touch $@

.venv-release/.installed: $(LOCKS)/release.txt
	$(PYTHON) -m venv .venv-release
	$(RELEASE)/python $(INSTALL) --require-hashes -r $(LOCKS)/release.txt
	touch $@
