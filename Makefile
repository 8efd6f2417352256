# make quickstart · make test · make digests · make test-faults · make bench      each makes .venv from requirements.lock when it is missing or stale
PYTHON ?= python3.11
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: quickstart test digests test-faults bench lint lock clean

quickstart: $(STAMP)
	$(VENV)/bin/python tools/quickstart.py --hub hub

test: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests

# The committed digests of every output, when one is meant to change: shows what changed, and rewrites tests/digests.
digests: $(STAMP)
	$(VENV)/bin/python -m tests.digests

# What `make test` does with a selection of kills, with all of them: publishers killed at every storage operation of a folder and of a
# bucket, and at many random moments, also while they build. Some 1500 kills, a quarter of an hour.
test-faults: $(STAMP)
	HUBPRESS_FAULTS=all $(VENV)/bin/python -m pytest -n 2 --dist loadfile -s tests/publishing/test_kills.py tests/publishing/test_faults.py

# Beside PyTorch's engines, too: make bench TORCH_PYTHON=/path/to/python (see tools/benchmark.py inference --help).
bench: $(STAMP)
	$(VENV)/bin/python -m pip install --quiet 'onnxruntime>=1.20' 'openvino>=2025.0'
	$(VENV)/bin/python tools/benchmark.py all $(if $(TORCH_PYTHON),--torch-python $(TORCH_PYTHON))

lint: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

venv: $(STAMP)

$(STAMP): requirements.lock
	@command -v $(PYTHON) > /dev/null || { echo "hubpress needs Python 3.11: install it, or run make PYTHON=/path/to/python3.11"; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock
	touch $@

# Re-resolve the newest versions that pyproject.toml allows (needs uv).
lock:
	uv pip compile pyproject.toml --extra test --python-version 3.11 --universal --generate-hashes \
	  --no-emit-index-url --no-header --upgrade --output-file requirements.lock

clean:
	rm -rf $(VENV) hub
