# The names here are a contract (README.md lists them). Everything starts from a bare Linux machine with Python 3.11+ and a C compiler.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := operator:hack

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The stamp holds the hash of what is installed, so a changed pin re-installs and an unchanged one costs nothing.
$(VENV)/.installed: requirements/runtime.txt requirements/dev.txt pyproject.toml
	@test -x $(BIN)/python || { echo "making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/runtime.txt requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.venv: $(VENV)/.installed

lint: .venv ## style, types, import contracts, generated files, chart
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(GENERATE) --check
	@$(BIN)/weir crds --output-dir charts/weir/files/crds --check
	@helm=$$($(BIN)/python -m controlplane helm) && $$helm lint --strict charts/weir

test: .venv ## every test that needs no GPU, no Docker and no real vLLM
	@$(BIN)/pytest

real: .venv ## the real vLLM on this CPU, by itself and as a ModelDeployment: 6 GB the first time; build/real/summary.json
	@$(BIN)/pytest -m real
	@$(BIN)/python -m real cluster

dev: .venv ## a cluster that stays up until Ctrl-C, and what to export to use it
	@$(BIN)/python -m devcluster up

demo: .venv ## the main job, whole: build/demo/summary.json, report.html
	@$(BIN)/python -m demo

GENERATE := $(BIN)/weir crds --output-dir crds --reference docs/reference/api.md

generate: .venv ## CRDs and API reference from the models
	@$(GENERATE)
	@$(BIN)/weir crds --output-dir charts/weir/files/crds

requirements: ## compile the pinned, hashed requirement files again
	uv=$$(command -v uv || echo $(BIN)/uv); \
	for set in uv dev runtime real real-wheels; do case $$set in runtime) from=pyproject.toml;; *) from=requirements/$$set.in;; esac; \
	$$uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make requirements" $$( [ $$set = dev ] && echo "-c requirements/runtime.txt" || true ) \
	  $$( [ $$set = real-wheels ] && echo "--no-deps" || true ) \
	  -o requirements/$$set.txt $$from; done

.PHONY: help .venv lint test real dev demo generate requirements
