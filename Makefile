# Everything a fresh machine needs is installed into .venv by the first target that is asked for.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
CONSTRAINTS ?= constraints.txt
PIP     = $(BIN)/pip install --quiet --constraint $(CONSTRAINTS)
# The oldest python that is supported.
PYTHON_OLDEST ?= python3.10
# Its models, which the tests patch, need none of its 126 dependencies.
MOLCRAFT = $(PIP) --no-deps molcraftdiffusion decorator
# Libraries whose sampling loops are run from t*, without what a loop does not touch (torchvision,
# optimal transport).
LOOPS   = $(PIP) --no-deps azula flow_matching torchdiffeq smalldiffusion torchcfm bionemo-moco \
          jaxtyping wadler-lindig

.PHONY: demo test test-oldest lint docs bench clean

demo: $(VENV)/.demo ## sample QM9 molecules along the full trajectory and from t*, side by side
	$(BIN)/gaga demo --out demo-output --force

# One process a core, so one thread a process.
test: $(VENV)/.test ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

test-oldest: ## run the tests with the oldest versions that are supported, in .venv-oldest
	$(MAKE) test PYTHON=$(PYTHON_OLDEST) VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

lint: $(VENV)/.dev ## style, types, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell gaga_adapter integrations tests benchmarks docs .github README.md CHANGELOG.md CONTRIBUTING.md CODE_OF_CONDUCT.md SECURITY.md

docs: $(VENV)/.docs ## build the documentation into site/, with strict links
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: $(VENV)/.test ## the benchmarks that need no training
	$(BIN)/python benchmarks/fit.py
	$(BIN)/python benchmarks/scheduler_overhead.py

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/pip pyproject.toml $(CONSTRAINTS)
	$(PIP) -e ".[data]"
	touch $@

$(VENV)/.test: $(VENV)/bin/pip pyproject.toml $(CONSTRAINTS)
	$(PIP) -e ".[test]"
	$(MOLCRAFT)
	$(LOOPS)
	touch $@ $(VENV)/.demo

$(VENV)/.docs: $(VENV)/bin/pip pyproject.toml $(CONSTRAINTS)
	$(PIP) -e ".[docs]"
	touch $@

$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml $(CONSTRAINTS)
	$(PIP) -e ".[dev]"
	$(MOLCRAFT)
	$(LOOPS)
	touch $@ $(VENV)/.test $(VENV)/.docs $(VENV)/.demo

clean:
	rm -rf $(VENV) .venv-oldest build dist *.egg-info demo-output site
