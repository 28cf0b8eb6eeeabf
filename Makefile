# Targets of the project; `make` or `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUTPUTS := $(or $(EBM_OUTPUT_DIR),outputs)
STORE := $(or $(MLFLOW_TRACKING_URI),sqlite:///$(abspath $(OUTPUTS))/mlflow.db)
PORT ?= 5000
SERVE_PORT ?= 5001
ARGS ?=
# a worker takes neighbouring tests, which share what they train, and at its end some of those that others have left
WORKERS := -n auto --maxprocesses 4 --dist worksteal
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test test-slow lint format train sweep ui serve bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(STAMP) ## make the virtual environment .venv and install everything, at the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Give another: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

reproduce: setup ## the study, four models and their comparison, on data that come with a dependency (2 minutes)
	$(BIN)/ebm-train -m experiment=notebook data=digits $(ARGS)

test: setup ## the tests (EBM_DATA_DIR: folder with mnist/, for the tests that need it)
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-slow: setup ## the tests too long for `make test`: every moment of a kill, a server that goes down, MLflow's pages in a browser
	$(BIN)/python -m pytest -m slow $(WORKERS) $(ARGS)

lint: setup ## ruff and mypy
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy src tests benchmarks

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

train: setup ## one model: make train ARGS="data=mnist model=rbm"
	$(BIN)/ebm-train $(ARGS)

sweep: setup ## several: make sweep ARGS="sampler.steps=1,5 optimizer.lr=0.02,0.05"
	$(BIN)/ebm-train -m $(ARGS)

ui: setup ## MLflow's pages at http://127.0.0.1:5000 (another port: PORT=...)
	@echo "http://127.0.0.1:$(PORT)  (up in about 20 seconds; Ctrl-C ends it)"
	@PATH="$(abspath $(BIN)):$$PATH" MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
		$(BIN)/mlflow ui --host 127.0.0.1 --port $(PORT) --workers 1 --backend-store-uri "$(STORE)"

serve: setup ## a trained model at http://127.0.0.1:5001: make serve MODEL=outputs/runs/.../mlflow_model (or models:/name@alias)
	@test -n "$(MODEL)" || { echo "which model? make serve MODEL=outputs/runs/.../mlflow_model, or MODEL=models:/name@alias"; exit 1; }
	@PATH="$(abspath $(BIN)):$$PATH" MLFLOW_TRACKING_URI="$(STORE)" $(BIN)/mlflow models serve --model-uri "$(MODEL)" \
		--env-manager local --host 127.0.0.1 --port $(SERVE_PORT) --workers 1

bench: setup ## the figures of the README: speed, memory, likelihoods (EBM_DATA_DIR for MNIST; about half an hour)
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove caches and build files; .venv and outputs/ stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -exec rm -rf {} +
