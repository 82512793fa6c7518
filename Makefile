# make run    set-up and the main job: from raw text to a served model
# make test   set-up and the fast tests
# make check  lint, types, layers, generated files     make e2e   whole runs, real servers, a real browser
# make soak   long fault, load and model tests         make bench side by side with peers
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
RECIPE ?= demo
# Two processes, a file of tests to each in turn: most of a test's time is one process that starts. A thread for each:
# there are two cores.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
# Compiled after pip, which would do it on one core; some packages hold tests and files of newer Pythons.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
COMPILE = $(BIN)/python -m compileall -q -j 0 -x '/tests/' $(VENV)/lib > /dev/null || true

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run repro test check e2e soak bench generate lock clean

help:            ## what can be made
	@sed -n '1,4s/^# //p' Makefile

setup: $(VENV)/.run
setup-dev: $(VENV)/.dev

$(VENV)/.run: pyproject.toml constraints.txt
	@echo "installing (a few minutes, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e '.[demo]'
	@$(COMPILE)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	@echo "installing, with the tools for tests (a few minutes, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e '.[demo,dev]'
	@$(COMPILE)
	@touch $(VENV)/.run $@

run: setup       ## KEEP=1 leaves the model server running, RECIPE=... runs another recipe
	@tidemill run $(RECIPE) $(if $(KEEP),--keep-serving)

repro: setup     ## the pure stages by DVC alone
	@dvc repro

test: setup-dev
	@OMP_NUM_THREADS=1 python -m pytest -q -m "not e2e and not slow and not soak" --ignore=tests/contracts $(SIDE_BY_SIDE)

check: setup-dev
	@ruff check . && ruff format --check . && mypy && python -m pytest -q tests/contracts $(SIDE_BY_SIDE)

e2e: setup-dev
	@OMP_NUM_THREADS=1 python -m pytest -q -m "e2e and not slow" $(SIDE_BY_SIDE)

soak: setup-dev  ## hours of faults and load; results go to benchmarks/results
	@python -m pytest -q -m "soak or slow"

bench: setup-dev
	@for claim in lifecycle cleaning tokenize night training checkpoints serving gate evaluation; do python benchmarks/$$claim.py || exit 1; done

generate: setup-dev  ## files that are made from the code
	@python -m tasks dvc-yaml > dvc.yaml
	@tidemill recipes schema > docs/recipe.schema.json
	@tidemill recipes use demo > /dev/null
	@python -m tests.contracts.documents

lock:            ## constraints.txt from what is installed now
	@(echo "# Every version, as installed and tested together; make installs from this file. Made by: make lock"; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+cpu$$//') > constraints.txt

clean:           ## everything that stages and servers made; the environment stays
	@$(BIN)/tidemill down; rm -rf out .tidemill .dvc/tmp .dvc/cache
