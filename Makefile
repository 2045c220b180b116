# Two commands do everything: "make run" and "make test". They need Python 3.11+.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 9000
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test check test-matrix clean

run: $(VENV)/run.stamp
	@$(BIN)/python manage.py migrate --verbosity 0
	@$(BIN)/python manage.py filters
	@echo "http://localhost:$(PORT)/  (Ctrl-C ends it)"
	@exec $(BIN)/daphne --port $(PORT) fws_project.asgi:application

test: check
	$(BIN)/python -m pytest --cov

# What needs no server: style, types, settings, migrations.
check: $(VENV)/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -W error manage.py check --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run

# Every Python of this machine with every Django it can install.
test-matrix:
	tests/matrix $(MATRIX)

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

clean:
	rm -rf .venv* build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache
