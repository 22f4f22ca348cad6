PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
SPHINX := $(RUN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky

.PHONY: setup demo lint check test exhaustive docs docs-quick clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12) and "Python 3.12 or newer is needed")'
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --upgrade pip
	$(RUN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: setup  ## the main job: writes outputs/demo/curve.png, posterior.nc, report.json
	$(RUN)/pl2d demo --out outputs/demo

lint: setup  ## style, types, layers
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	rm -rf build/layers && mkdir -p build/layers  # as installed, with models and guides in their places
	cp -r pl2d_ppl build/layers && cp -r models guides build/layers/pl2d_ppl
	cd build/layers && ../../$(RUN)/lint-imports ../../.importlinter --no-cache

check: lint  ## lint, fast tests
	$(RUN)/pytest -q -n 2 --dist loadfile -m 'not slow and not exhaustive'

test: lint  ## lint, tests: some 15 minutes on two cores
	$(RUN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not exhaustive'

exhaustive: setup  ## every test there is: some 25 minutes
	$(RUN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

docs: setup  ## the documentation with the notebooks' results, into build/docs/html: some six minutes
	$(SPHINX) -D nb_execution_mode=force docs build/docs/html

docs-quick: setup  ## the same without running notebooks
	$(SPHINX) docs build/docs/html

clean:
	rm -rf $(VENV) outputs build docs/generated *.egg-info
