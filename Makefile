# Each target first creates .venv with getc and its tools.  `make PYTHON=python3.12 test` uses another Python; to change
# the Python later, remove .venv or run `make clean`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Test processes: two per core, because the tests mostly wait for servers.
WORKERS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
PYTEST = -m pytest -q -n $(WORKERS) --dist loadfile

# Minimum coverage of the lines and branches of getc/ in percent, checked by `make test`.
COVERAGE_FLOOR := 95

.DEFAULT_GOAL := help
.PHONY: help demo example test test-slow test-all servers test-servers interop soak faults check format docs bench clean

help: ## list the targets
	@echo 'getc: etcd for gevent.  Targets (each first creates .venv with all dependencies):'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'Times were measured on two idle cores.  ARGS passes arguments: make test ARGS="tests/v3 -k lease".'

demo: $(READY) ## run a small game world on a real etcd, with kills and outages (20 s)
	@$(BIN)/python -m tools.demo $(ARGS)

example: $(READY) ## run zone servers that own shards, in one process without an etcd (30 s)
	@$(BIN)/python -m examples.zones $(ARGS)

test: $(READY) ## run all fast tests, in memory and on a real etcd, with coverage (6 min)
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run $(PYTEST) -m 'not slow and not soak' $(ARGS)
	@$(BIN)/coverage combine -q && \
	$(BIN)/coverage report --format=text $(if $(ARGS),,--fail-under=$(COVERAGE_FLOOR))

test-slow: $(READY) ## run the tests of processes, security, clusters, faults and installation, and the demo (8 min)
	@$(BIN)/python $(PYTEST) -m slow $(ARGS)
	@$(BIN)/python -m tools.demo

test-all: test test-slow ## run test and test-slow (14 min)

servers: $(READY) ## build the newest etcd and etcdctl 3.5, 3.6 and 3.7 with Go into .servers, once (3 min)
	@$(BIN)/python -m tools.servers build $(ARGS)

test-servers: $(READY) ## run the tests that use an etcd on each that is installed, or on ARGS=3.7 (4 min each)
	@$(BIN)/python -m tools.servers test $(ARGS)

interop: $(READY) ## build the Go program that the tests in tests/interop and the benchmark run (1 min)
	@$(BIN)/python -m tools.interop $(ARGS)

soak: $(READY) ## run the long tests: twenty leader losses, injected bugs, ten minutes of faults (15 min)
	@$(BIN)/python -m pytest -q -m soak --timeout=1200 $(ARGS)
	@$(BIN)/python -m tests.faults --minutes 10

faults: $(READY) ## inject faults into a cluster and check the history; SEED=7 MINUTES=10 SEEDS=10 (3 min per seed)
	@$(BIN)/python -m tests.faults $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) \
	    $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

check: $(READY) ## check format, lint, types, layers, exports and wording (30 s)
	@failed=''; \
	run() { echo "-- $$1"; shift; "$$@" || failed=yes; }; \
	run 'format'  $(BIN)/ruff format --check --quiet . ; \
	run 'lint'    $(BIN)/ruff check --quiet . ; \
	run 'types'   $(BIN)/mypy ; \
	run 'layers'  $(BIN)/python tools/check_layers.py ; \
	run 'exports' $(BIN)/python tools/check_exports.py ; \
	run 'words'   $(BIN)/python tools/check_words.py ; \
	if [ -n "$$failed" ]; then echo 'check: FAILED'; exit 1; fi; echo 'check: passed'

format: $(READY) ## format the code and apply automatic fixes
	@$(BIN)/ruff check --quiet --fix-only . && $(BIN)/ruff format .

docs: $(READY) ## build the documentation in docs/_build
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build && echo 'docs: docs/_build/index.html'

bench: $(READY) ## compare the speed of getc with other clients
	@$(BIN)/python -m tools.bench $(ARGS)

clean: ## remove all generated files
	rm -rf $(VENV) .venv-* .interop build dist docs/_build *.egg-info .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "getc requires Python 3.10 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	    echo 'Select another one: make PYTHON=python3.12 ...'; exit 1; }
	@echo "setup: creating a virtual environment in $(VENV) ($$($(PYTHON) --version 2>&1))"
	@$(PYTHON) -m venv $(VENV) || { echo 'Debian and Ubuntu need: apt-get install python3-venv'; exit 1; }
	@echo 'setup: installing getc, a real etcd for the tests, and the tools (once, about a minute)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
