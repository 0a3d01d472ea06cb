# make course · test · lab · notebooks · stamp · book · browser · soak · coverage · bench · clean. Each sets up what it needs in .venv (Linux and macOS; Windows: see README.md).

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
BOOK_READY := $(VENV)/book-ready
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	"$$name" -c "$(SUITABLE)" 2>/dev/null && { echo "$$name"; break; }; done)

.PHONY: help course test lab notebooks stamp book browser soak coverage bench lint clean clean-all

help:
	@echo "make course     run notebooks 01 to 06 in order and print what came out"
	@echo "make test       unit tests, and every notebook run again with its outputs compared"
	@echo "make lab        open the course in JupyterLab"
	@echo "make notebooks  execute the notebooks again and make them ready to commit"
	@echo "make stamp      make anew what is generated: badges, set-up cells, folded solutions, README tables"
	@echo "make book       build the site from the notebooks, into build/book"
	@echo "make browser    check the site and JupyterLab in a headless browser"
	@echo "make soak       the slow tests, and the notebooks twenty times in random order: hours"
	@echo "make coverage   which lines and branches of stlib the tests and notebooks reach"
	@echo "make bench      time a training step on this machine: the library's trainer, tuned, and ours"
	@echo "make lint       format and lint, notebooks included"
	@echo "make clean      remove runs and caches (make clean-all: the environment too)"

$(READY): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 was found: install one, or name it with make PYTHON=/path/to/python3"; exit 2; }
	@"$(PYTHON)" -c "$(SUITABLE)" || { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13: name one with make PYTHON=/path/to/python3"; exit 2; }
	rm -rf $(VENV)
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $(READY)

$(BOOK_READY): $(READY) requirements-book.txt
	$(BIN)/python -m pip install --quiet -r requirements-book.txt -c requirements.txt
	@touch $(BOOK_READY)

course: $(READY)
	$(BIN)/python tools/course.py

test: $(READY)
	$(BIN)/python -m pytest

lab: $(READY)
	$(BIN)/python tools/lab.py

notebooks: $(READY)
	$(BIN)/python tools/notebooks.py

stamp: $(READY)
	$(BIN)/python tools/notebooks.py --no-execute
	$(BIN)/python tools/readme.py

book: $(BOOK_READY)
	$(BIN)/python tools/book.py

browser: $(BOOK_READY)
	$(BIN)/python -m pytest tests -m browser

soak: $(READY)
	$(BIN)/python -m pytest tests -m "slow and not real_data and not soak"
	$(BIN)/python tools/soak.py --json runs/soak.json

# Notebooks in kernels that end by themselves: those of the tests are killed, and with them what was measured.
coverage: $(READY)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests
	STLIB_RUNS=$(CURDIR)/build/coverage_runs STLIB_PROFILE=mini $(BIN)/coverage run $(BIN)/jupyter-execute notebooks/*.ipynb notebooks/solutions/*.ipynb
	rm -rf build/coverage_runs
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(READY)
	$(BIN)/python -m stlib bench --json runs/bench.json

lint: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check .

clean:
	rm -rf runs build stlib.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -not -path "./$(VENV)/*" -exec rm -rf {} +

clean-all: clean
	rm -rf $(VENV)
