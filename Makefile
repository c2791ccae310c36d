# Two commands do everything on a fresh machine with Python 3.11, 3.12 or 3.13:
#   make demo [SEED=0]   generate an acquisition, run the whole chain on it, score it
#   make test            all tests; what cannot run here is skipped by name
# WORKERS processes share the tests; TESTS are more options of pytest, for example TESTS="-k bias".
SEED ?= 0
CORES ?= $(shell nproc)
# more of them than four would ask for more memory than a laptop has
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
# what .venv is made with: the oldest of those that are here, unless it is given (PYTHON=python3.12)
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13,$(shell command -v $(p))) python3.11)
BIN := .venv/bin
VERSION_OF = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
DEMO := demo/seed-$(SEED)
export MPLBACKEND := Agg
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --durations=25 --durations-min=1 $(TESTS)

ifneq ($(words $(CURDIR)),1)
$(error the folder "$(CURDIR)" has a blank in its path, which programs of the environment do not take; clone terareg where no folder has one)
endif

# an environment of another Python would be used without a word
ifneq ($(origin PYTHON),file)
ifneq ($(wildcard .venv/ready),)
ifneq ($(call VERSION_OF,$(PYTHON)),$(call VERSION_OF,$(BIN)/python))
$(error .venv was made with Python $(call VERSION_OF,$(BIN)/python), but PYTHON is $(PYTHON), \
  Python $(call VERSION_OF,$(PYTHON)); remove the environment with rm -r .venv, and run this again)
endif
endif
endif

.PHONY: help install demo test unit quick coverage docs site image-lock lint clean

help:
	@sed -n '2,3s/^# *//p' Makefile
	@echo "make install         set up .venv with the command terareg, and no more"
	@echo "make unit            unit tests that take less than half a second each: two minutes"
	@echo "make quick           unit and workflow tests, without engines (SLURM, AWS, S3) and browser"
	@echo "make docs            renew what the pages take from the code: keys, pictures"
	@echo "make site            build the pages and the API as a site, in site/"
	@echo "make coverage        lines that the unit tests run; below the floor in pyproject.toml it fails"
	@echo "make lint            ruff, snakefmt, mypy, snakemake --lint; also as hooks of pre-commit"
	@echo "make image-lock      renew requirements-image.lock, what the container image installs"
	@echo "make clean           remove the demo and its results"

install: .venv/ready

# the library itself stays here (editable), so that .venv/bin/terareg runs this clone
.venv/ready: requirements.lock pyproject.toml
	@echo "== installing into .venv (once, about 2 GB)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(DEMO)/sample.yaml: .venv/ready
	@echo "== generating an acquisition with known truth, seed $(SEED)"
	$(BIN)/python -m terareg.phantom make --out $(DEMO) --seed $(SEED)

demo: $(DEMO)/sample.yaml
	@echo "== running the chain on $(CORES) cores"
	$(BIN)/snakemake --configfile $(DEMO)/sample.yaml --cores $(CORES) --rerun-incomplete --quiet rules
	@echo "== scoring every stage against the truth"
	$(BIN)/python -m terareg.phantom score --truth $(DEMO)/truth --results results/demo --store results --out results/demo/score.json

test: .venv/ready
	@echo "== all tests on $(WORKERS) workers: engines, workflow, browser, units"
	$(PYTEST)

unit: .venv/ready
	$(PYTEST) -m "not slow" tests/unit

quick: .venv/ready
	$(PYTEST) -m "not engine and not browser"

coverage: .venv/ready
	$(BIN)/python -m pytest -q --cov --cov-report=term:skip-covered tests/unit

docs: .venv/ready
	$(BIN)/python -c "import pathlib; from terareg.execution.schema import describe; \
	  p = pathlib.Path('config/README.md'); h = '## All keys\n'; \
	  p.write_text(p.read_text().split(h)[0] + h + '\n' + describe())"
	$(BIN)/python docs/development/draw_architecture.py
	$(BIN)/python docs/development/make_notebook.py

.venv-docs/ready: docs/requirements.txt
	@echo "== installing the tools of the site into .venv-docs (once, 50 MB)"
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --requirement docs/requirements.txt
	@touch $@

site: .venv-docs/ready
	.venv-docs/bin/mkdocs build --strict

image-lock: .venv/ready
	$(BIN)/python .ci/lock_image.py

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/snakefmt --check workflow
	$(BIN)/mypy
	$(BIN)/snakemake --lint

clean:
	rm -rf demo results/demo results/atlases/phantom
