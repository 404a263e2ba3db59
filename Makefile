# Needs only Python >= 3.10 and make. Everything is installed into .venv; nothing outside changes.
#   make demo PYTHON=python3.12           another interpreter
#   make demo PIP_ARGS="..."              more arguments for pip install, such as another index
#   make test WORKERS=8                   more processes for the tests

PYTHON ?= python3
PIP_ARGS ?=
VENV ?= .venv
DEMO ?= demo
# processes that run the tests
WORKERS ?= 2
# changed files that `make fuzz` tries on each parser
INPUTS ?= 100000

BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install $(if $(CI),--quiet) --disable-pip-version-check \
	--constraint constraints.txt $(PIP_ARGS)

.DEFAULT_GOAL := help
.PHONY: help demo setup test check plant-faults fuzz test-gpu bench cross-compile build clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST)

demo: $(VENV)/installed  ## set up, then stream examples/timeline.txt into demo/
	@mkdir -p $(DEMO)
	$(BIN)/afstream generate --prompts examples/timeline.txt \
		--out $(DEMO)/demo.mp4 --sheet $(DEMO)/demo.png
	@echo 'The video is $(DEMO)/demo.mp4, its contact sheet $(DEMO)/demo.png'

setup: $(VENV)/installed-dev  ## set up for development

test: check  ## set up, then lint, types, import contracts, tests
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

check: $(VENV)/installed-dev  ## lint, types, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo

plant-faults: $(VENV)/installed-dev  ## see which deliberate faults no test notices
	$(BIN)/python tests/plant_faults.py

fuzz: $(VENV)/installed-dev  ## change files at random, and see that every parser stands it
	$(BIN)/python tests/fuzz/run.py --inputs $(INPUTS)

test-gpu: $(VENV)/installed-dev  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

bench: $(VENV)/installed  ## measure a whole stream
	$(BIN)/afstream bench

cross-compile: $(VENV)/installed-dev  ## compile the kernels for GPUs that are not here
	$(BIN)/python benchmarks/cross_compile.py --json benchmarks/results/cross_compile.json

# Anything missing from the wheel shows only after an install, so look inside before it leaves.
WHEEL_PARTS := afstream/py.typed afstream_kernels/py.typed afstream_cli/py.typed \
	afstream/stream.py afstream/training/recipes/pocket.toml \
	afstream/families/pocket/pocket.safetensors afstream/families/wan/model.py \
	afstream_kernels/triton/attention.py afstream_cli/app.py

build: $(VENV)/installed-dev  ## build dist/, list the wheel, fail if a part is missing
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	@contents=$$($(BIN)/python -m zipfile --list dist/*.whl) && echo "$$contents" && \
	for part in $(WHEEL_PARTS); do \
		echo "$$contents" | grep -q "^$$part " || { echo "the wheel lacks $$part" >&2; exit 1; }; \
	done

clean:  ## remove what make made, the environment too
	rm -rf $(VENV) $(DEMO) dist .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps stand for the environment: made once, and again when what it depends on changes.
$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "afstream needs Python 3.10 or newer; '$(PYTHON)' is not. Name one: make PYTHON=python3.12 ..." >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "'$(PYTHON)' cannot make environments: its venv module is incomplete. On Debian or Ubuntu: apt install python3-venv" >&2; \
		exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/created pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $(VENV)/installed $@
