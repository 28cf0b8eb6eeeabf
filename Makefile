# Targets of the project; `make` or `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
CODE := src tests benchmarks docs/hooks.py docs/examples.py
PORT ?= 5000
SERVE_PORT ?= 5001
ARGS ?=
ROW ?=
# a worker takes neighbouring tests, which share what they train, and at its end some of those that others have left
WORKERS := -n auto --maxprocesses 4 --dist worksteal
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test test-slow test-cluster lint format docs train sweep ui serve bench bench-scale bench-peers bench-gpu results pictures clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(STAMP) ## make the virtual environment .venv and install everything, at the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Give another: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

reproduce: setup ## the study, four models with verdict and likelihood, and their comparison, on data that come with a dependency (3 minutes)
	$(BIN)/ebm-train experiment=study data=digits $(ARGS)

test: setup ## the tests (EBM_DATA_DIR: folder with mnist/, for the tests that need it)
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-slow: setup ## the tests too long for `make test`: every moment of a kill, a server that goes down, MLflow's pages in a browser
	$(BIN)/python -m pytest -m slow $(WORKERS) $(ARGS)

test-cluster: setup ## a real Slurm, several hosts, PostgreSQL: started and ended by the tests (root and Debian; else skipped with a reason)
	$(BIN)/python -m pytest -m cluster -rs -n 2 --dist worksteal $(ARGS)

lint: setup ## ruff and mypy
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy $(CODE)

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

$(DOCS_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: setup $(DOCS_STAMP) ## the documentation as a site, site/index.html; a link that leads nowhere ends it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "site/index.html; with the search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site"

train: setup ## one model: make train ARGS="data=mnist model=rbm"
	$(BIN)/ebm-train $(ARGS)

sweep: setup ## several: make sweep ARGS="sampler.steps=1,5 optimizer.lr=0.02,0.05"
	$(BIN)/ebm-train -m $(ARGS)

ui: setup ## MLflow's pages at http://127.0.0.1:5000 (another port: PORT=...)
	@exec $(BIN)/ebm-ui port=$(PORT) $(ARGS)

serve: setup ## a trained model at http://127.0.0.1:5001: make serve MODEL=outputs/runs/.../mlflow_model (or models:/name@alias)
	@test -n "$(MODEL)" || { echo "which model? make serve MODEL=outputs/runs/.../mlflow_model, or MODEL=models:/name@alias"; exit 1; }
	@exec $(BIN)/ebm-serve "run=$(MODEL)" port=$(SERVE_PORT) $(ARGS)

bench: setup ## the measured numbers of the documentation: speed, memory, likelihoods (EBM_DATA_DIR for MNIST; more than half an hour)
	$(BIN)/python -m benchmarks $(ARGS)

bench-scale: setup ## cost and memory against hidden units, chains, k, layers, threads, processes, images: make bench-scale ARGS="hidden chains"
	$(BIN)/python -m benchmarks.scale $(ARGS)

bench-peers: setup ## other programs that train RBMs, each in an environment of its own in outputs/peers, judged by one evaluator
	$(BIN)/python -m benchmarks.peers $(ARGS)

bench-gpu: setup ## epochs, tempering and AIS on a GPU against one core; needs a GPU
	$(BIN)/python -m benchmarks.gpu $(ARGS)

results: setup ## likelihoods of published machines beside ours, docs/table.md, trained and bracketed (hours; one row: make results ROW=rbm16)
	$(BIN)/python -m benchmarks.results $(ROW)

pictures: setup ## the pictures of README and docs, docs/pictures/, trained and drawn (EBM_DATA_DIR for MNIST; ten minutes)
	$(BIN)/python -m benchmarks.pictures $(ARGS)

clean: ## remove caches and build files; .venv and outputs/ stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -exec rm -rf {} +
