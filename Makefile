# One virtual environment for everything, built from the hash-pinned locks and from nothing else.
PYTHON ?= python3
VENV := .venv
MARK := $(VENV).building
DATA ?= $(or $(KEYTRAIL_DATA),keytrail-data)
UV_VERSION := 0.13.9
UPGRADE ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The locks are complete, so pip resolves nothing (--no-deps) and compiles nothing (--only-binary).
PIP_INSTALL := $(VENV)/bin/pip install --quiet --only-binary :all: --no-deps --no-compile --require-hashes
# Two makes at once take turns at the environment, where the system has flock.
TAKE_TURNS := $(if $(shell command -v flock),flock $(VENV).lock)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
.PHONY: help demo test servers serve lint bench lock clean venv

help: ## Print these targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## Show keytrail at work, from a call to its proof. Needs no AWS account.
	@$(VENV)/bin/python -m examples.demo

# A seed, since all processes must see the tests in one order. A file's tests stay together, so that its servers are started once; the
# files come in their order, since the long ones are in the middle of it. Compiled modules are kept, whatever the environment says: the
# tests start some hundred processes.
test: $(VENV)/.dev ## Run the tests, on all cores.
	@PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX="$(CURDIR)/$(VENV)/pycache" \
		$(VENV)/bin/python -m pytest --numprocesses=auto --dist loadfile --no-loadscope-reorder

servers: ## Install the servers that some tests drive for real (Debian, as root); without them, those tests are skipped.
	@tests/integration/components/install.sh

serve: $(VENV)/.runtime ## Serve on loopback; make the data folder first if there is none.
	@test -e "$(DATA)" || KEYTRAIL_DATA="$(DATA)" $(VENV)/bin/keytrail init
	@exec env KEYTRAIL_DATA="$(DATA)" $(VENV)/bin/keytrail serve

lint: $(VENV)/.dev ## Check format, rules, types, import direction and documentation.
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/python -m pytest -q tests/docs tests/test_packaging.py

bench: $(VENV)/.dev ## Measure what the README's figures come from.
	@$(VENV)/bin/python -m bench

lock: ## Make the locks again from pyproject.toml (UPGRADE=--upgrade takes newer releases).
	@test -x .venv-lock/bin/uv || { $(PYTHON) -m venv --clear .venv-lock && .venv-lock/bin/pip install --quiet uv==$(UV_VERSION); }
	@echo '$(BUILD_BACKEND)' | $(COMPILE) --extra test --overrides tests/lock-overrides.txt --output-file requirements-dev.lock
	@echo '$(BUILD_BACKEND)' | $(COMPILE) --constraints requirements-dev.lock --output-file requirements.lock

# Both locks hold the build backend too: installing keytrail itself fetches nothing. No setting of this machine goes in.
BUILD_BACKEND := setuptools>=77
COMPILE = env -u UV_FIND_LINKS -u UV_INDEX -u UV_EXTRA_INDEX_URL .venv-lock/bin/uv --no-config pip compile --quiet \
	--universal --python-version 3.11 --generate-hashes --only-binary :all: --custom-compile-command "make lock" \
	$(UPGRADE) pyproject.toml -

clean: ## Remove what was built. The data folder stays.
	rm -rf $(VENV) $(VENV).lock $(MARK) .venv-lock build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(VENV)/.dev ## Build the environment of `make test`.

# The runtime's packages alone are enough to run; the tests' environment holds them too.
$(VENV)/.runtime: requirements.lock pyproject.toml
	@$(TAKE_TURNS) $(MAKE) build LOCK=$< STAMPS=$@

$(VENV)/.dev: requirements-dev.lock pyproject.toml
	@$(TAKE_TURNS) $(MAKE) build LOCK=$< STAMPS="$@ $(VENV)/.runtime"

# A build that was interrupted left its mark, and is begun afresh.
.PHONY: build
build:
	@if test -e $(MARK) || ! test -x $(VENV)/bin/python; then \
		echo "Building $(VENV) …" && touch $(MARK) && $(PYTHON) -m venv --clear $(VENV); fi
	@touch $(MARK)
	@$(PIP_INSTALL) --requirement $(LOCK)
	@$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	@rm $(MARK) && touch $(STAMPS)
