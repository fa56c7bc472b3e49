# make demo   watch a year of flights stream through the store      make test   every check and test
# make serve  run the server on ./kudurru-data                      make bench  measure
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-dynamodb test test-components check serve bench stubs lock clean

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

$(READY): requirements/dev.txt pyproject.toml sdk_python/pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Kudurru needs Python 3.11 or newer; on Debian: apt-get install python3"; exit 1; }
	@python3 -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable . --editable ./sdk_python
	@touch $@

setup: $(READY) ## install everything into .venv

stubs: setup ## make the stubs from the protos
	$(PY) protos/generate.py

check: setup ## lint and type-check
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/buf lint
	$(VENV)/bin/buf format --diff --exit-code

test: check ## every check, and every test that python3 and make are enough for
	$(PY) -m pytest -m "not components"
	@echo "the tests on DynamoDB Local and SeaweedFS, which take java and npm, are not among them: make test-components"

test-components: setup ## the tests on real components: DynamoDB Local (java and npm) and SeaweedFS
	$(PY) -m pytest -m components

demo: setup ## watch a year of flights stream through the store
	$(PY) -m examples.flights

demo-dynamodb: setup ## watch a month of them on DynamoDB Local (java and npm) and SeaweedFS
	$(PY) -m examples.flights --dynamodb

serve: setup ## run the server on ./kudurru-data
	$(VENV)/bin/kudurru-server serve

bench: setup ## measure; figures are explained in bench/README.md
	$(PY) -m bench

lock: ## refresh the exact versions in requirements/*.txt (needs uv)
	cd requirements && for name in runtime dev; do \
		uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
			$$name.in --output-file $$name.txt; done

clean: ## remove what setup, tests and runs made
	rm -rf $(VENV) .cache .hypothesis .mypy_cache .ruff_cache .pytest_cache kudurru-data
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
