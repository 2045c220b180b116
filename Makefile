# Two commands do everything: "make run" and "make test". They need Python 3.11+.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 9000
BENCH ?= .venv-bench
DOCS ?= .venv-docs
DOCS_PORT ?= 9009
# The commit that "make bench" compares with, as this package was: benchmarks/needs.py.
BEFORE = $(shell sed -n 's/^BEFORE = "\(.*\)"/\1/p' benchmarks/needs.py)
FUZZ_SECONDS ?= 600
# Tests side by side: most of them wait for a server more than they compute.
WORKERS ?= 6
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# What is compiled once, modules and the asserts of tests, is kept for the next process.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test check style types layers site layout docs docs-serve test-matrix package messages bench fuzz stress clean

run: $(VENV)/run.stamp
	@$(BIN)/python manage.py migrate --verbosity 0
	@$(BIN)/python manage.py filters
	@echo "http://localhost:$(PORT)/  (Ctrl-C ends it)"
	@exec $(BIN)/daphne --port $(PORT) fws_project.asgi:application

# The two files that "check" has run call nothing of the package.
test: check
	$(BIN)/python -m pytest --cov --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder \
		--ignore tests/test_clocks.py --ignore tests/test_house.py

# What needs no server: style, types, settings, migrations. The longest ones begin first.
# One process rewrites the asserts of a new clone: each worker of "make test" would do it again.
check: $(VENV)/test.stamp
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target types $(VENV)/rewritten.stamp layout layers site style

style:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

layers:
	$(BIN)/lint-imports --no-logo

site:
	$(BIN)/python -W error manage.py check --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run

layout:
	$(BIN)/python -m pytest -q tests/test_clocks.py tests/test_house.py

# The site of docs/, in build/site: every link and anchor of it leads somewhere.
docs: $(DOCS)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict
	@echo "build/site/index.html"

# The same, and again whenever a page changes.
docs-serve: $(DOCS)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs serve --strict --dev-addr localhost:$(DOCS_PORT)

$(DOCS)/docs.stamp: docs/site/requirements.txt
	@$(MAKE) --no-print-directory VENV=$(DOCS) $(DOCS)/python.stamp
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r docs/site/requirements.txt
	@touch $@

# Every Python of this machine with every Django it can install.
test-matrix:
	tests/matrix $(MATRIX)

# What is published, in dist/: built, checked, installed and run on every Python of this machine.
package: $(VENV)/test.stamp
	$(PIP) "build>=1.2" "twine>=6.1"
	tests/package

# After a change of a string in the admin: each django.po has it, and says which it does not translate.
messages: $(VENV)/test.stamp
	$(BIN)/python -m tests.translations

# Side by side with its peers: half an hour. BENCH_ARGS="--help" says what else.
bench: $(BENCH)/bench.stamp
	$(BENCH)/bin/python -m benchmarks $(BENCH_ARGS)

# Peers that cannot be installed are left out of the run, which says so.
$(BENCH)/bench.stamp: pyproject.toml $(wildcard benchmarks/requirements*.txt benchmarks/package.json benchmarks/needs.py)
	@$(MAKE) --no-print-directory VENV=$(BENCH) $(BENCH)/python.stamp
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	-$(BENCH)/bin/python -m venv $(BENCH)-2014 && $(BENCH)-2014/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements-2014.txt
	-cd benchmarks && npm install --silent --no-audit --no-fund --no-package-lock
	-mkdir -p $(BENCH)-before && ln -sfn $(CURDIR)/benchmarks $(BENCH)-before/benchmarks && git archive $(BEFORE) filtered_websocket | tar -x -C $(BENCH)-before
	@touch $@

# Looks for frames, envelopes and handshakes that break a promise.
fuzz: $(VENV)/test.stamp
	$(PIP) "atheris>=3"
	$(BIN)/python -m tests.fuzz.run $(FUZZ_SECONDS)

# What "make test" does with few clients and short stops, at full size, and each promised
# number of seconds, of which "make test" waits for five times as many: twenty minutes, on a
# machine without other work.
stress: $(VENV)/test.stamp
	FWS_STRESS=full $(BIN)/python -m pytest -s -o timeout=1800 tests/history/test_simulation.py
	FWS_STRESS=full $(BIN)/python -m pytest -s tests/stress
	FWS_STRESS=full $(BIN)/python -m pytest -v -s -m promise tests/e2e
	FWS_FAULT_CLIENTS=500 FWS_FAULT_STOP=20 $(BIN)/python -m pytest -s -o timeout=900 tests/e2e/faults

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit("this needs Python 3.11 or newer, not " + sys.version.split()[0] + ": make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run.stamp: $(VENV)/python.stamp requirements.txt pyproject.toml
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp tests/requirements.txt
	$(PIP) -r tests/requirements.txt
	@touch $@

$(VENV)/rewritten.stamp: $(VENV)/test.stamp
	-@$(BIN)/python -m pytest --collect-only -qq > /dev/null
	@touch $@

clean:
	rm -rf .venv* .fuzz benchmarks/node_modules tests/javascript/node_modules build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache
