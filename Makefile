# Everything runs in a virtual environment of its own; nothing else on the machine is touched.
# Needs Python 3.11 or newer, make and git.

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,\
	$(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Where the benchmark data, a text encoder and Chinese word vectors lie; benchmarks/README.md.
DATA ?= data
ENCODER ?= all-MiniLM-L6-v2
VECTORS ?= chinese-vectors
WORK ?= bench

.PHONY: demo test lint slow clean bench-meld bench-mosi bench-emodb bench-text

demo: $(VENV)/installed
	$(BIN)/egmf-extract --dataset demo
	$(BIN)/egmf-train --from-cache --dataset demo --resume
	$(BIN)/egmf-train --from-cache --dataset demo --resume --modalities text
	$(BIN)/egmf-train --from-cache --dataset demo --resume --modalities audio
	$(BIN)/egmf-train --from-cache --dataset demo --resume --modalities visual
	$(BIN)/egmf-report
	@echo "open report/index.html"

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow

bench-meld bench-mosi: bench-%: $(VENV)/installed
	$(BIN)/python benchmarks/scores/$*.py --data $(DATA) --text-encoder $(ENCODER) --work $(WORK)

bench-text: $(VENV)/installed
	$(BIN)/python benchmarks/scores/text.py --data $(DATA) --text-encoder $(ENCODER) \
		--chinese-vectors $(VECTORS) --work $(WORK)

bench-emodb: $(VENV)/installed-dev
	$(BIN)/python benchmarks/scores/emodb.py --data $(DATA) --work $(WORK)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or give PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV): some minutes, and about 7 GB of disk"
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) report build dist data/demo cache/demo runs/demo
