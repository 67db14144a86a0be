# make demo: the whole system in a few minutes.  make test: all fast tests.  make check: style, types.
# make docs: the documentation as a site, site/index.html (to search it: python -m http.server -d site).
# make toy-model: the demo's model, for the package (sdlm generate toy).
# make slow: the long tests.  make torture: faults, one after the other (about an hour).
# make oldest: the fast tests with the oldest versions that pyproject.toml allows.
PYTHON ?= python3
SCRIPTS = $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN = .venv/$(SCRIPTS)

.PHONY: demo toy-model test docs oldest check slow torture format clean
demo: .venv/installed
	$(BIN)/sdlm demo

TOY = src/simple_diffusion_lm/runs/models/toy
toy-model: demo
	rm -rf $(TOY)
	$(BIN)/sdlm export demo/run --out $(TOY) --license mit --half

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow"

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

oldest: .venv-oldest/installed
	OMP_NUM_THREADS=1 .venv-oldest/$(SCRIPTS)/python -m pytest -q -n 2 -m "not slow"

slow: .venv/installed
	$(BIN)/python -m pytest -q -m slow --timeout 5400

torture: .venv/installed
	$(BIN)/python benchmarks/torture.py --out benchmarks/results/torture.json

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/installed: constraints.txt
.venv-oldest/installed: constraints-oldest.txt
.venv/installed .venv-oldest/installed: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check -c $(filter %.txt,$^) torch
	$(@D)/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check -c $(filter %.txt,$^) \
		-e ".[plot,eval,data,tokenizers,serve,docs,dev]"
	touch $@

clean:
	rm -rf .venv .venv-oldest demo site
