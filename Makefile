# Every target does its own set-up: a fresh clone and Python 3.11 or newer are all that is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo demo-celery serve test test-neighbours pictures test-matrix lint bench bench-peers bench-pages chaos mutants clean

help:
	@echo 'make install   make .venv with the package and its development tools'
	@echo 'make demo      run 20,000 real requests through llmcache.extract() and show the table'
	@echo 'make demo-celery   run a plan of warming by Celery workers over a broker, and show what it was worth'
	@echo 'make serve     open the demo project on http://127.0.0.1:8000/'
	@echo 'make test      format, lint, types, migrations and all tests'
	@echo 'make test-neighbours   test the adapters to other libraries, beside those, in environments of their own'
	@echo 'make pictures  make the pictures of the pages in docs/images anew'
	@echo 'make test-matrix   run a choice of the tests on every Python, Django and pydantic that is supported'
	@echo 'make bench     measure hits, misses, faults and memory against floors and targets, and hits beside other caches'
	@echo 'make bench-peers   the part of make bench that measures other caches, in environments of their own'
	@echo 'make bench-pages   measure the pages over a ledger of 1,000,000 calls; some minutes'
	@echo 'make chaos     measure staleness after an invalidation, and calls while processes and servers die; many minutes'
	@echo 'make mutants   break the rules of the cache one by one in a copy, and see that a test notices each; some minutes'
	@echo 'make clean     remove .venv and var'

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'llmcache needs Python 3.11 or newer: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY)
	@$(BIN)/python manage.py migrate --verbosity 0
	@$(BIN)/python manage.py demo

# In a folder of its own, which goes with it.
demo-celery: $(READY)
	@var=$$(mktemp -d) && trap 'rm -rf "$$var"' EXIT && trap 'exit 130' INT TERM && \
		export LLMCACHE_DEMO_VAR="$$var" && \
		$(BIN)/python manage.py migrate --verbosity 0 && $(BIN)/python manage.py demo_celery

serve: $(READY)
	@$(BIN)/python manage.py migrate --verbosity 0
	$(BIN)/python manage.py serve

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python manage.py makemigrations --check --dry-run

# Two processes, whatever the machine has: tests wait for servers more than they work, and more would wait for each other.
test: lint
	@$(BIN)/python tests/provision.py
	$(BIN)/python -m pytest -n 2 --dist loadfile

# `make test-neighbours NEIGHBOURS='instructor -- -k tenants'` runs a part of it.
test-neighbours: $(READY)
	$(BIN)/python -m tests.neighbours $(NEIGHBOURS)

pictures: $(READY)
	@$(BIN)/python tests/provision.py
	LLMCACHE_TEST_PICTURES=1 $(BIN)/python -m pytest tests/browser -k picture

# Slow: ten environments, made and removed one after another. `make test-matrix MATRIX=--quick` runs two.
test-matrix:
	$(PYTHON) tests/matrix.py $(MATRIX)

bench: $(READY)
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.peers

# `make bench-peers PEERS='--rounds 2 --no-files'` is a look at it.
bench-peers: $(READY)
	$(BIN)/python -m benchmarks.peers $(PEERS)

bench-pages: $(READY)
	$(BIN)/python -m benchmarks.pages

# Slow: eight processes read while others invalidate; leaders, servers and tasks die while others ask.
# `make chaos CHAOS='strict projects'` runs two parts of it, `make chaos CHAOS=flights` all that is about calls.
chaos: $(READY)
	@$(BIN)/python tests/provision.py
	$(if $(CHAOS),,LLMCACHE_TEST_KILLS=50 $(BIN)/python -m pytest -q tests/flows/test_kill.py)
	$(BIN)/python -m chaos $(CHAOS)

# `make mutants MUTANTS='never-renewed an-error-stored'` breaks two of them.
mutants: $(READY)
	@$(BIN)/python tests/provision.py
	$(BIN)/python -m tests.mutations $(MUTANTS)

clean:
	rm -rf $(VENV) var
