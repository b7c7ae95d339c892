# Each target sets up what it needs in .venv and starts at once when that is done already.
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
# Python compiles what it imports; to compile all of it takes as long as the rest of the installation.
PIP := --quiet --disable-pip-version-check --no-compile
USER_ID ?= 123
K ?= 10
# Of what the user may choose next, what the user should like.
SHOW := --rank_by liked --prefer_expected mean

BOARD ?= loo-3416
ROW ?= vanilla
SEEDS ?= 3
MODEL ?= $(or $(wildcard checkpoints/best),models/enhanced)

.PHONY: help setup run demo serve test lint bench baselines reproduce verify clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: .venv/.ready  ## create .venv with the pinned requirements

.venv/.ready: requirements.txt requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install $(PIP) --no-deps --require-hashes -r requirements.lock
	@# torch, in the build that the index gives to this machine.
	$(BIN)/python -m pip install $(PIP) -r requirements.txt
	@touch $@

.venv/.ready-dev: requirements-dev.txt requirements-serving.txt requirements-export.txt .venv/.ready
	$(BIN)/python -m pip install $(PIP) -r requirements-dev.txt
	@touch $@

run: .venv/.ready  ## train on MovieLens 1M, test, recommend ten films to user 123
	@$(BIN)/python -m readers.download ml-1m; found=$$?; \
	if [ $$found -eq 0 ]; then data="--dataset ml-1m"; \
	elif [ $$found -eq 3 ]; then data="--dataset synthetic --max_epochs 100 --eval_every 10"; \
	  echo "MovieLens could not be downloaded: continuing with the embedded synthetic data set."; \
	else exit $$found; fi; \
	$(BIN)/python trainer.py --preset quick $$data && \
	echo && $(BIN)/python inference.py --user_id $(USER_ID) --k $(K) $(SHOW)

demo: .venv/.ready  ## recommend ten films to user 123 at once, with a model of models/
	@$(BIN)/python -m readers.download ml-1m
	$(BIN)/python inference.py --model_path models/enhanced --user_id $(USER_ID) --k $(K) $(SHOW)

.venv/.ready-serving: requirements-serving.txt .venv/.ready
	$(BIN)/python -m pip install $(PIP) -r requirements-serving.txt
	@touch $@

serve: .venv/.ready-serving  ## the page and the HTTP service on http://127.0.0.1:8000: make serve MODEL=models/enhanced
	$(BIN)/python -m serving --model_path $(MODEL)

test: .venv/.ready-dev  ## run the tests
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

lint: .venv/.ready-dev  ## check style
	$(BIN)/ruff check .

.venv-peers/.ready: benchmarks/requirements-peers.txt
	$(PYTHON) -m venv --clear .venv-peers
	.venv-peers/bin/python -m pip install $(PIP) -r benchmarks/requirements-peers.txt
	@touch $@

bench: .venv/.ready .venv-peers/.ready  ## time training and inference against RecTools (20 min)
	$(BIN)/python -m benchmarks.compare --peers .venv-peers/bin/python

baselines: .venv/.ready  ## all rows of a results table: make baselines BOARD=loo-3416|loo-3706|global-time
	$(BIN)/python -m ablations.rows --board $(BOARD) --seeds $(SEEDS)

reproduce: .venv/.ready  ## one row of it again, compared with what is reported: make reproduce ROW=vanilla SEEDS=1
	$(BIN)/python -m ablations.rows $(ROW) --board $(BOARD) --seeds $(SEEDS)

verify: .venv/.ready  ## whether published figures are those of results/ and of the models in models/
	$(BIN)/python -m ablations.verify

clean:  ## remove the environments and caches (checkpoints, runs and data stay)
	rm -rf .venv .venv-peers .pytest_cache .ruff_cache .hypothesis
