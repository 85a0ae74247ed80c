# The tested environment in .venv and every check of the project. Needs GNU make, bash and Python 3.10 to 3.12.
#
#   make test PYTEST_ARGS='-k niqe'     make test WORKERS=8     make venv PYTHON=/path/to/python3.12

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench venv clean

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PIP := $(PY) -m pip install -q --progress-bar off -c constraints.txt
MMCV := $(shell sed -n 's/^mmcv==\([0-9.]*\).*/\1/p' constraints.txt)

# The first of these that really runs and is supported.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do \
    $$p -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1 \
    && echo $$p && break; done)
# A folder that may hold a wheel of mmcv built for this Python and torch. PyPI has none.
NRIQA_WHEELS ?= ../shared/wheels

WORKERS ?= 2
PYTEST_ARGS ?=
# One thread per worker: with more, two workers on two cores slow each other down. Files stay whole, so that each
# framework is imported and each shared fixture made once.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(STAMP) ## the whole story in a few minutes, without downloads
	$(VENV)/bin/nriqa demo

test: $(STAMP) ## all tests but the slow ones
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: $(STAMP) ## every test
	$(PYTEST) $(PYTEST_ARGS)

lint: $(STAMP) ## ruff: rules and format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

bench: $(STAMP) ## every benchmarks/bench_*.py
	@shopt -s nullglob; for file in benchmarks/bench_*.py; do echo "== $$file"; $(PY) "$$file"; done

venv: $(STAMP) ## the tested environment in .venv

clean: ## remove caches and build outputs; .venv and results stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The stamp comes last, and each step does nothing when its packages are there: a build that was killed goes on where
# it stopped, a changed setup.py costs seconds. pip writes INSTALLER last: a package without it is half unpacked.
# The order matters: basicsr and mmcv need torch at build time and hide that from pip.
$(STAMP): setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo 'No Python 3.10 to 3.12 found; name one: make venv PYTHON=...' >&2; exit 1; }
	@for info in $(VENV)/lib/python3*/site-packages/*.dist-info; do test -f "$$info/INSTALLER" || rm -rf "$$info"; done
	@$(PY) -m pip --version >/dev/null 2>&1 || { echo '[1/5] $(VENV)'; $(PYTHON) -m venv $(VENV); }
	@$(PIP) 'pip>=24' 'setuptools<80' wheel
	@echo '[2/5] torch'
	@$(PIP) torch torchvision 'numpy<2'
	@echo '[3/5] basicsr'
	@$(PIP) --no-build-isolation basicsr-fixed
	@echo '[4/5] mmcv $(MMCV)'
	@$(mmcv_fits) || $(mmcv_from_wheel) || $(mmcv_from_source)
	@echo '[5/5] this package with all its extras'
	@$(PIP) --no-build-isolation -e '.[basicsr,mmagic,iqa,report,dev]'
	@$(PY) -m pip check
	@touch $@

# A wheel built for another torch installs without complaint and fails at import; pip's cache holds such wheels too.
mmcv_fits = $(PY) -c 'import mmcv.ops; assert mmcv.__version__ == "$(MMCV)"' >/dev/null 2>&1
mmcv_wheel = $(NRIQA_WHEELS)/mmcv-$(MMCV)-$$($(PY) -c 'import sys; print("cp%d%d" % sys.version_info[:2])')-*.whl
mmcv_from_wheel = { compgen -G "$(mmcv_wheel)" >/dev/null && $(PIP) --force-reinstall --no-deps $(mmcv_wheel) \
    && $(PIP) mmcv && $(mmcv_fits); }
mmcv_from_source = { echo 'No built wheel of mmcv fits: building it from source, about 20 minutes on 2 cores'; \
    $(PY) -m pip uninstall -qq -y mmcv; \
    MMCV_WITH_OPS=1 FORCE_CUDA=0 $(PIP) --no-build-isolation --no-cache-dir mmcv==$(MMCV); }
