# Each target creates .venv and installs by itself; constraints.txt pins every version.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: setup check test fuzz demo bench bench-peers lock clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt runtime/data/_json_rows.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "teal needs Python 3.11 or newer; this is $$($(PYTHON) --version). Set PYTHON=..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[example,dev]'
	@touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup
	$(BIN)/python -m pytest tests/unit tests/integration $(PYTEST_ARGS)

# The property-based tests with examples that `make test` has not seen.
fuzz: setup
	$(BIN)/python -m pytest $$(grep -lr "from hypothesis" tests/unit) tests/integration/test_serving_conformance.py --hypothesis-profile=fuzz $(PYTEST_ARGS)

demo: setup
	$(BIN)/teal demo

bench: setup
	$(BIN)/python -m benchmarks.run_all

# The same with MLServer, LitServe and BentoML, each in an environment of its own under .bench (3 GB).
bench-peers: setup
	$(BIN)/python -m benchmarks.peers.install
	$(BIN)/python -m benchmarks.run_all

clean:
	rm -rf $(VENV) .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

lock:
	$(PYTHON) -m venv .bench/lock
	.bench/lock/bin/python -m pip install --quiet torch==2.13.0
	.bench/lock/bin/python -m pip install --quiet '.[example,dev]'
	{ sed -n '/^#/p' constraints.txt; .bench/lock/bin/python -m pip freeze --exclude teal-runtime | sed 's/+cpu//'; } > constraints.new
	mv constraints.new constraints.txt
