# Every target installs what it needs into .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The one torch release known to have a small CPU build on every index we use; a newer one pulls gigabytes of CUDA.
TORCH ?= torch==2.13.0
CLIP ?= tests/data/clip.mp4

.DEFAULT_GOAL := help
.PHONY: help run setup test check lint types fmt wheel clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/base: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@ $(VENV)/base

run: $(VENV)/base ## install into .venv and upscale a clip of this repository to out/
	@mkdir -p out
	$(BIN)/flashvsr-trt run $(CLIP) -o out/ -y

setup: $(VENV)/dev ## everything a developer needs, into .venv

test: $(VENV)/dev ## install what the tests need and run them
	$(BIN)/python -m pytest

check: lint types test ## ruff, mypy, import direction, tests

lint: $(VENV)/dev ## ruff and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

# mypy does not see through the editable install's import hook, so it gets the package as a tree of links.
types: $(VENV)/dev ## mypy
	@mkdir -p build/types/flashvsr_trt
	@for p in configs plugins_trt export engines runtime; do ln -sfn ../../../$$p build/types/flashvsr_trt/$$p; done
	$(BIN)/mypy

fmt: $(VENV)/dev ## format in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(VENV)/dev ## build a wheel into dist/
	$(BIN)/python -m pip wheel -q --no-deps -w dist .

clean: ## remove .venv, build, dist, out
	rm -rf $(VENV) build dist out
