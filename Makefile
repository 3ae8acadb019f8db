# Every target stands on its own in a fresh clone: it makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= bench-out
MODELS ?= dit-digits pixart-shapes latte-digits
SAMPLERS ?= ddim dpm++ ddpm
JOBS ?= 2
SEQUENCES ?= 10000

.PHONY: bench test test-all fuzz lint docs links notebooks evidence engines gpu dist clean

bench: .venv/installed
	$(BIN)/skipcache bench --out $(OUT)
	$(BIN)/skipcache bench --model mmdit-emoji --batch 8 --seeds 0 1 2 --out $(OUT)/mmdit-emoji

# Other caches at equal compute, for every model and sampler; then the docs' tables and pictures of it.
evidence: .venv/installed
	for model in $(MODELS); do for sampler in $(SAMPLERS); do \
	    $(BIN)/skipcache peers --model $$model --scheduler $$sampler \
	        --out evidence-out/$$model-$$sampler || exit 1; \
	done; done
	$(BIN)/skipcache publish evidence-out/*

# What the steps of both engines cost, with a unit at each end of cached steps and with none; then the docs' table of it.
engines: .venv/installed
	for model in $(MODELS); do for keep in 1 0; do \
	    $(BIN)/skipcache engines $$model --keep $$keep --intervals 3 --predictor damped hold \
	        --rounds 7 --results benchmarks/results || exit 1; \
	done; done
	$(BIN)/skipcache publish

# All that only a GPU can tell, within 10 minutes, into bench-out/gpu; without one it says so.
gpu: .venv/installed
	$(BIN)/skipcache gpu

# Each process runs tests of whole files, on one thread. test-all has more families, and whatever takes long.
test: .venv/installed
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not thorough"

test-all: .venv/installed
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# Sequences of calls, others each time: never a wrong reuse (tests/fuzz).
fuzz: .venv/installed
	FUZZ=$(SEQUENCES) $(BIN)/python -m pytest -n $(JOBS) tests/fuzz

# mypy reads an ordinary install: the import hooks of an editable one hide the mapped packages from it.
lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf .lint build
	$(BIN)/python -m pip install -q --no-deps --target .lint .
	cd .lint && ../$(BIN)/mypy --config-file ../pyproject.toml -p skipcache

# The site, into site/. A warning is an error: a link that leads nowhere, a name without a docstring.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# Links of the docs that leave the repository; needs a network, so continuous integration does not run it.
links: .venv/installed
	$(BIN)/python docs/hooks/links.py

# Runs the notebooks and saves their outputs.
notebooks: .venv/installed
	$(BIN)/python docs/hooks/run_notebooks.py examples/*.ipynb

# The sdist, the wheel that is built out of it, and what both must be.
dist: .venv/installed
	rm -rf dist build
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python .ci/check_dist.py

.venv/installed: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .lint build dist site *.egg-info $(OUT) evidence-out
