# Every target sets itself up: it makes .venv, installs getc and its tools there, and then does its work.
# `make PYTHON=python3.12 test` takes another Python; remove .venv (or `make clean`) to change it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The tests wait for servers most of the time, so there are two processes for each core.
WORKERS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
PYTEST = -m pytest -q -n $(WORKERS) --dist loadfile

# Percent of the lines and branches of getc/ that `make test` has to reach.
COVERAGE_FLOOR := 95

.DEFAULT_GOAL := help
.PHONY: help demo example test test-slow test-all servers test-servers soak faults check words format docs bench clean

help: ## show this list
	@echo 'getc: etcd for gevent.  Targets, each of which sets itself up:'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'Times are those of two quiet cores.  ARGS passes arguments on: make test ARGS="tests/v3 -k lease".'

demo: $(READY) ## a small game world on a real etcd, with kills and outages (20 s)
	@$(BIN)/python -m tools.demo $(ARGS)

example: $(READY) ## zone servers that own shards, in one process and without an etcd (30 s)
	@$(BIN)/python -m examples.zones $(ARGS)

test: $(READY) ## all fast tests, in memory and on real etcds, with coverage (4 min)
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run $(PYTEST) -m 'not slow and not soak' $(ARGS)
	@$(BIN)/coverage combine -q && \
	$(BIN)/coverage report --format=text $(if $(ARGS),,--fail-under=$(COVERAGE_FLOOR))

test-slow: $(READY) ## processes, security, clusters, a cluster with injected faults, installation, the demo (5 min)
	@$(BIN)/python $(PYTEST) -m slow $(ARGS)
	@$(BIN)/python -m tools.demo

test-all: test test-slow ## both of them (9 min)

servers: $(READY) ## build etcd and etcdctl of the newest 3.5, 3.6 and 3.7 with Go, into .servers (3 min)
	@$(BIN)/python -m tools.servers build $(ARGS)

test-servers: $(READY) ## the tests that need a server, on each etcd that is installed; ARGS=3.7 (5 min each)
	@$(BIN)/python -m tools.servers test $(ARGS)

soak: $(READY) ## long tests: twenty lost leaders, injected bugs one by one, ten minutes of faults (15 min)
	@$(BIN)/python -m pytest -q -m soak --timeout=1200 $(ARGS)
	@$(BIN)/python -m tests.faults --minutes 10

faults: $(READY) ## inject faults into a cluster, and check the history; SEED=7 MINUTES=10 SEEDS=10 (3 min a seed)
	@$(BIN)/python -m tests.faults $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) \
	    $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

check: $(READY) ## format, lint, types, layers and exports (30 s)
	@failed=''; \
	run() { echo "-- $$1"; shift; "$$@" || failed=yes; }; \
	run 'format'  $(BIN)/ruff format --check --quiet . ; \
	run 'lint'    $(BIN)/ruff check --quiet . ; \
	run 'types'   $(BIN)/mypy ; \
	run 'layers'  $(BIN)/python tools/check_layers.py ; \
	run 'exports' $(BIN)/python tools/check_exports.py ; \
	if [ -n "$$failed" ]; then echo 'check: FAILED'; exit 1; fi; echo 'check: passed'

words: $(READY) ## refuse words that do not belong in the code and its documentation
	@$(BIN)/python tools/check_words.py

format: $(READY) ## put the code in form
	@$(BIN)/ruff check --quiet --fix-only . && $(BIN)/ruff format .

docs: $(READY) ## the documentation, in docs/_build
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build && echo 'docs: docs/_build/index.html'

bench: $(READY) ## how fast getc is beside other clients
	@$(BIN)/python -m tools.bench $(ARGS)

clean: ## remove everything that was made here
	rm -rf $(VENV) .venv-* build dist docs/_build *.egg-info .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "getc needs Python 3.10 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	    echo 'Name another one: make PYTHON=python3.12 ...'; exit 1; }
	@echo "set up: a virtual environment in $(VENV) ($$($(PYTHON) --version 2>&1))"
	@$(PYTHON) -m venv $(VENV) || { echo 'On Debian and Ubuntu: apt-get install python3-venv'; exit 1; }
	@echo 'set up: getc, a real etcd for the tests, and the tools (once; about a minute)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
