# Each target sets up what it needs in .venv (Linux and macOS; Windows: see README.md).
BIN := .venv/bin
READY := .venv/ready
BOOK_READY := .venv/book-ready
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	"$$name" -c "$(SUITABLE)" 2>/dev/null && { echo "$$name"; break; }; done)
.PHONY: help course test lab notebooks stamp workspace book browser soak coverage bench lint clean clean-all

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1: /p' Makefile
$(READY): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 was found: install one, or name it with make PYTHON=/path/to/python3"; exit 2; }
	@"$(PYTHON)" -c "$(SUITABLE)" || { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13: name one with make PYTHON=/path/to/python3"; exit 2; }
	rm -rf .venv
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@mkdir -p .venv/etc/jupyter && cp docs/lab/* .venv/etc/jupyter && touch $(READY)
$(BOOK_READY): $(READY) requirements-book.txt
	$(BIN)/python -m pip install --quiet -r requirements-book.txt -c requirements.txt
	@touch $(BOOK_READY)
course: $(READY) ## run notebooks 01 to 06 in order and print what came out
	$(BIN)/python tools/course.py
test: $(READY) ## unit tests, and every notebook run again with its outputs compared
	$(BIN)/python -m pytest
lab: $(READY) ## open the course in JupyterLab
	$(BIN)/jupyter lab --config=docs/lab/jupyter_lab_config.py --LabApp.default_url=/lab/tree/notebooks/01_base_model.ipynb
notebooks: $(READY) ## execute the notebooks again and make them ready to commit
	$(BIN)/python tools/notebooks.py
stamp: $(READY) ## write what is generated: badges, set-up cells, folded solutions, the README's course map
	$(BIN)/python tools/notebooks.py --no-execute
workspace: $(READY) ## copy the notebooks to a new folder, to work in: make workspace DIR=../mine
	@$(BIN)/python tools/notebooks.py --workspace "$(DIR)"
book: $(BOOK_READY) ## build the site from README and notebooks, into build/book
	rm -rf build/book
	$(BIN)/python -m sphinx -WEq --keep-going -c docs . build/book
browser: $(BOOK_READY) ## check the site and JupyterLab in a headless browser
	$(BIN)/python -m pytest tests -m browser
soak: $(READY) ## the slow tests, and the notebooks twenty times in random order: hours
	$(BIN)/python -m pytest tests -m "slow or soak"
	for round in $$(seq 20); do ls notebooks/*.ipynb notebooks/solutions/*.ipynb | sort -R | xargs $(BIN)/python -m pytest -q || exit 1; done
# Notebooks in kernels that end by themselves: those of the tests are killed, and with them what was measured.
coverage: $(READY) ## which lines and branches of stlib the tests and notebooks reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests
	STLIB_RUNS=$(CURDIR)/build/coverage_runs STLIB_PROFILE=mini $(BIN)/coverage run $(BIN)/jupyter-execute notebooks/*.ipynb notebooks/solutions/*.ipynb
	rm -rf build/coverage_runs
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
bench: $(READY) ## time a training step on this machine: the library's trainer, tuned, and ours
	$(BIN)/python -m stlib bench --json runs/bench.json
lint: $(READY) ## format and lint, notebooks included
	$(BIN)/ruff format .
	$(BIN)/ruff check .
clean: ## remove runs and caches (clean-all: the environment too)
	rm -rf runs build stlib.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -not -path "./.venv/*" -exec rm -rf {} +
clean-all: clean
	rm -rf .venv
