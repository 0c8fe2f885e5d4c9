# What a person types. `make run` and `make test` need nothing but python3 (3.11 or newer), its venv module and make.
PYTHON ?= python3
PROFILE ?= tiny
PORT ?= 3000
VENV := .venv
BIN := $(VENV)/bin
# The stamp carries the lock's hash: a changed lock or project file installs again, an unchanged one never does.
STAMP := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM := false

.PHONY: run test check bench ui query install clean-install

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
	  || { echo "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@rm -f $(VENV)/.installed-*
	@touch $@

run: install
	$(BIN)/python -m pipelines.run everything --profile $(PROFILE)
	@$(BIN)/python -m pipelines.query --summary

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/laws

PEERS := .venv-peers
export PEERS_PYTHON := $(PEERS)/bin/python

$(PEERS)/.installed: pyproject.toml | $(STAMP)
	$(PYTHON) -m venv $(PEERS)
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["peers"], sep="\n")' > $(PEERS)/requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $(PEERS)/requirements.txt
	@touch $@

bench: install $(PEERS)/.installed
	@missed=""; for name in $$(ls tests/benchmarks | sed -n 's/\.py$$//p'); do \
	  echo "python -m tests.benchmarks.$$name"; \
	  OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.$$name || missed="$$missed $$name"; \
	done; test -z "$$missed" || { echo "short of what is wanted, or failed:$$missed" >&2; exit 1; }

ui: install
	@$(BIN)/python -m pipelines.ui --profile $(PROFILE) --port $(PORT)

query: install
	@$(BIN)/python -m pipelines.query $(NAME)

clean-install:
	rm -rf $(VENV) $(PEERS)
