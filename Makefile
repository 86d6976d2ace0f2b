# The commands of README.md. Everything but `bench` lands in .venv, data and .dagster beside this file; `make clean` removes all three.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
APT := $(if $(filter 0,$(shell id -u)),,sudo )env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# All but torch, whose wheel depends on the machine, is pinned and checked by hash, the build backend included.
PINNED := $(INSTALL) --no-deps --require-hashes
PROJECT := $(INSTALL) --no-build-isolation -e
export DAGSTER_HOME := $(CURDIR)
# Dagster's home-grown usage statistics are off in dagster.yaml; the hub's are off here.
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo test services ui bench clean lock settings

demo: $(VENV)/.installed ## documents to packed sequences on the embedded default
	$(BIN)/python -m el_assets run

test: $(VENV)/.installed-test ## lint, types and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

services: $(VENV)/.installed-services ## tests that need a server or a browser; installs Chromium and Postgres where there are none
	$(BIN)/pytest -m services

ui: $(VENV)/.installed ## the Dagster UI on http://127.0.0.1:3000
	$(BIN)/python -m el_assets register
	$(BIN)/python -m el_assets ui

bench: $(VENV)/.installed ## the CPU part of benchmarks/RESULTS.md, its numbers and its picture; wants the machine to itself
	$(BIN)/python benchmarks/scoring.py --shape reference --what maps verify --device cpu --scale 0.1

settings: $(VENV)/.installed ## write docs/settings.md, .env.example and deploy/dagster.yaml's variables from the settings
	$(BIN)/python docs/write_settings.py

clean: ## everything that the other targets made, less what `bench` writes into benchmarks
	rm -rf $(VENV) data .dagster logs .logs_queue .nux .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.installed: pyproject.toml requirements/run.txt requirements/build.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PINNED) -r requirements/run.txt -r requirements/build.txt
	$(PROJECT) .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements/test.txt
	$(PINNED) -r requirements/test.txt
	$(PROJECT) .[test]
	touch $@

$(VENV)/.installed-services: $(VENV)/.installed-test requirements/services.txt requirements/cluster.txt
	command -v chromium || command -v google-chrome || $(APT) chromium fonts-dejavu-core
	ls /usr/lib/postgresql/*/bin/initdb || $(APT) postgresql
	$(PINNED) -r requirements/services.txt -r requirements/cluster.txt
	$(PROJECT) .[test,services,cluster]
	touch $@

lock: $(VENV)/.installed ## pin the tree of dependencies anew, hashes included (requirements/lock.py has --upgrade)
	$(INSTALL) uv
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python requirements/lock.py
