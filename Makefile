# Everything a checkout needs, on a machine that has only make and Python 3.9 or newer (Linux, macOS).
#
#   make demo    find ten landmarks of one real CT on others; table and pictures in demo-output/
#   make test    all tests
#   make help    the other targets
#
# Each target first brings .venv up to date: exact versions (requirements/constraints.txt), installed once, again only
# when the requirements change. Nothing is written outside the checkout but pip's and SAMv2's download caches.

PYTHON ?= python3
# Another place for torch, e.g. TORCH_INDEX=https://download.pytorch.org/whl/cpu (see the hint below).
TORCH_INDEX ?=
# Options of `samv2 demo`, e.g. make demo DEMO_ARGS="--template mine.nii.gz --query other.nii.gz"
DEMO_ARGS ?=
# Options of pytest, e.g. make test TEST_ARGS="-m 'not slow' Testing/core"
# A file's tests stay together, for what they prepare is shared; in the order of the folders, so that the long ones are not last.
TEST_ARGS ?= -n auto --dist loadscope --no-loadscope-reorder

VENV := .venv
RUN := $(VENV)/bin/python
PINS := requirements/constraints.txt
# The build backend that pip fetches for the project itself is pinned too: older pips read the first, newer the second.
PIP := PIP_CONSTRAINT=$(PINS) PIP_BUILD_CONSTRAINT=$(PINS) PIP_DISABLE_PIP_VERSION_CHECK=1 \
	$(RUN) -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help demo test lint benchmark lock clean

help:
	@echo "make demo        match landmarks between real CTs, with pictures (3 minutes after the downloads)"
	@echo "make test        run all tests"
	@echo "make lint        ruff and mypy"
	@echo "make benchmark   measure accuracy, speed and memory as Resources/Benchmarks.md has them"
	@echo "make lock        resolve requirements/constraints.txt anew (python3.9, 3.10 and 3.11 needed)"
	@echo "make clean       remove .venv and everything that tools have made"
	@echo "Variables: PYTHON=$(PYTHON) TORCH_INDEX=$(TORCH_INDEX) DEMO_ARGS, TEST_ARGS"

demo: $(VENV)/.demo
	$(RUN) -m SAMv2Core demo $(DEMO_ARGS)

# One torch thread per test process: the workers already fill the cores.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(RUN) -m pytest $(TEST_ARGS)

lint: $(VENV)/.lint
	$(RUN) -m ruff check .
	$(RUN) -m mypy

benchmark: $(VENV)/.test
	$(RUN) -m Testing.benchmarks

lock:
	$(PYTHON) requirements/lock.py python3.9 python3.10 python3.11

clean:
	rm -rf $(VENV) build dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(VENV)/.<extra> is a stamp: that extra of pyproject.toml is installed with the pins of today.
$(VENV)/.%: $(VENV)/.pip $(PINS) pyproject.toml
	$(PIP) --editable ".[$*]"
	@touch $@

$(VENV)/.pip:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 9))" || \
		{ echo "$(PYTHON) is missing or older than 3.9; name another: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) (once; some minutes, mostly torch)"
	@if [ "$$(uname -s)" = Linux ] && [ -z "$(TORCH_INDEX)" ] && ! command -v nvidia-smi >/dev/null; then \
		echo "No NVIDIA driver found: TORCH_INDEX=https://download.pytorch.org/whl/cpu makes torch ten times smaller."; fi
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
		echo "No virtual environment could be made; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(RUN) -m pip install --quiet --disable-pip-version-check "pip>=21.3"
	@touch $@

.SECONDARY: $(VENV)/.pip
