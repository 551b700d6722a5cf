# Every target installs what it needs into .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The one torch release known to have a small CPU build on every index we use; a newer one pulls gigabytes of CUDA.
TORCH ?= torch==2.13.0
CLIP ?= tests/data/clip.mp4

.DEFAULT_GOAL := help
.PHONY: help run setup test check lint types fmt wheel kernels engines engines-full cpp cpp-test clean

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

kernels: $(VENV)/base ## compile the attention kernels and ONNX Runtime's custom ops; needs no GPU [ARCH="80 89"]
	$(BIN)/python -m pip install -q -e '.[kernels]'
	$(BIN)/python -m flashvsr_trt.plugins_trt.kernels.build plugins_trt/lib/kernels $(if $(ARCH),--arch $(ARCH))
	$(BIN)/python -m flashvsr_trt.plugins_trt.kernels.library plugins_trt/lib/kernels
	$(BIN)/python -m flashvsr_trt.plugins_trt.kernels.trt_library plugins_trt/lib/kernels

# The official weights if they are in this folder, else the bundle in the package.
WEIGHTS ?= $(firstword $(wildcard FlashVSR-v1.1 FlashVSR))
BUNDLE ?= $(if $(WEIGHTS),build/bundles/$(notdir $(WEIGHTS)))
VARIANT ?= tiny
TIER ?= 8

build/bundles/%/manifest.json: | $(VENV)/dev
	$(BIN)/flashvsr-trt export --weights $(WEIGHTS) -o $(@D) --overwrite

engines: $(VENV)/base $(if $(WEIGHTS),$(BUNDLE)/manifest.json) ## build TensorRT engines [VARIANT=tiny TIER=8 TARGET=sm86,sm89 BUNDLE= WEIGHTS=]
	@echo "$(if $(BUNDLE),bundle $(BUNDLE)$(if $(WEIGHTS), of the official weights in $(WEIGHTS)),no official weights here: the bundle in the package)"
	$(BIN)/python -m pip install -q -e '.[$(or $(EXTRA),rtx)]'
	$(BIN)/flashvsr-trt engines build --variant $(VARIANT) --tier $(TIER) $(if $(TARGET),--target $(TARGET)) $(if $(BUNDLE),--bundle $(BUNDLE))

engines-full: $(VENV)/dev ## build a real-size network of random weights for tier 24; prints time, memory, sizes
	test -f build/bundles/real/manifest.json || $(BIN)/flashvsr-trt export --random-weights --no-check -o build/bundles/real
	$(BIN)/flashvsr-trt engines build --bundle build/bundles/real --tier 24 --rebuild

cpp: ## build libflashvsr, embed and flashvsr_y4m into build/cpp
	cmake -S runtime/cpp -B build/cpp -DCMAKE_BUILD_TYPE=Release
	cmake --build build/cpp --parallel

cpp-test: $(VENV)/dev ## build libflashvsr and test it, also under sanitizers
	$(BIN)/python -m pytest tests/test_cpp*.py

clean: ## remove .venv, build, dist, out
	rm -rf $(VENV) build dist out
