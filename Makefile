# make quickstart · make test · make lint · make bench      each makes .venv from requirements.lock when it is missing or stale
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13; do $$python -c "" 2> /dev/null && echo $$python && break; done)
BASE = $(or $(PYTHON),python3.11)
VENV := .venv
STAMP := $(VENV)/.installed
RUN_TESTS := $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test test-fast digests test-faults bench lint format venv lock clean

quickstart: $(STAMP)
	$(VENV)/bin/python tools/quickstart.py --hub hub

test: $(STAMP)
	$(RUN_TESTS) tests

# Without what builds modules, drives a browser or kills publishers: under 90 seconds, for the loop of a developer.
test-fast: $(STAMP)
	$(RUN_TESTS) -m 'not slow and not browser and not faults' tests

# The committed digests of every output, when one is meant to change: shows what changed, and rewrites tests/digests.
digests: $(STAMP)
	$(VENV)/bin/python -m tests.digests

# What `make test` does with a selection of kills, with all of them: publishers killed at every storage operation of a folder and of a
# bucket, and at many random moments, also while they build. Some 1500 kills, a quarter of an hour.
test-faults: $(STAMP)
	HUBPRESS_FAULTS=all $(VENV)/bin/python -m pytest -n 2 --dist loadfile -s tests/publishing/test_kills.py tests/publishing/test_faults.py

# Style, types, walls between rooms, declared dependencies; changes nothing.
lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/deptry .

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Beside PyTorch's engines, too: make bench TORCH_PYTHON=/path/to/python (see tools/benchmark.py inference --help).
bench: $(STAMP)
	$(VENV)/bin/python -m pip install --quiet 'onnxruntime>=1.20' 'openvino>=2025.0'
	$(VENV)/bin/python tools/benchmark.py all $(if $(TORCH_PYTHON),--torch-python $(TORCH_PYTHON))

venv: $(STAMP)

# The last step installs this checkout in place, so that scripts, notebooks and editors find `tools` and `builders`; it loads nothing.
$(STAMP): requirements.lock
	@$(BASE) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" 2> /dev/null || { echo "hubpress needs Python 3.11, 3.12 or 3.13. Fix: install one, or run make PYTHON=/path/to/python." >&2; exit 1; }
	@echo "Installing what requirements.lock names, TensorFlow among it, into $(VENV): this takes a few minutes."
	rm -rf $(VENV)
	$(BASE) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Pin what pyproject.toml asks for (needs uv). Pinned versions stay; make lock UPGRADE=--upgrade takes the newest ones.
lock:
	uv pip compile pyproject.toml --extra test --python-version 3.11 --universal --generate-hashes \
	  --no-emit-index-url --no-header $(UPGRADE) --output-file requirements.lock

clean:
	rm -rf $(VENV) hub hubpress.egg-info
