# Everything sets itself up: python3 (3.10 to 3.13), make and a package index are all it takes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# the tests of a file share what they train
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --durations 10
# what is compiled once is kept, even where the environment says otherwise: it is half a minute of the tests
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo figures docs test test-all lint clean

help:
	@echo "make demo   train three streams on synthetic clips, fuse them, compare settings (minutes, 2 cores)"
	@echo "make demo CLIP=1   with a fourth stream, a small random CLIP joined to a motion network"
	@echo "make demo REAL=DIR   prepare, train and fuse your own videos, a folder for each class in DIR"
	@echo "make figures FOOTAGE=DIR VIDEO=FILE   the pictures and most tables of README and docs (hours); each of the two may be left out:"
	@echo "            FOOTAGE: a folder of clips with groups.csv and action_boxes.csv; VIDEO: any video"
	@echo "make test   run the test suite (3 minutes, 2 cores)"
	@echo "make test-all   run the slow tests too: processes, kills, fuzzing, exports, long trainings; ONLY=slow: those alone"
	@echo "make lint   ruff and mypy"
	@echo "make docs   the documentation as a site in build/site"
	@echo "make setup  only the virtual environment ($(VENV), about 6 GB)"
	@echo "make clean  remove the virtual environment and caches; runs and data stay"

setup: $(BIN)/.ready

$(BIN)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else f"Python 3.10 to 3.13 is needed, this is {v[0]}.{v[1]}; try make PYTHON=python3.12")'
	@echo "setting up $(VENV): about 6 GB, a minute or more"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,clip,pretrained]"
	@# otherwise each of several processes that start together would compile the inner loops
	$(BIN)/python -c "from coviar_mocrop.bitstream.kernels import fastest; from coviar_mocrop.clips.resize import compile_kernels; fastest(); compile_kernels()"
	@touch $@

demo: setup
	$(BIN)/python tools/demo.py $(if $(CLIP),--clip) $(if $(REAL),--real "$(REAL)",--overwrite)

# the accuracies, then compute and times
figures: setup
	$(BIN)/python docs/figures.py
	OMP_NUM_THREADS=1 $(BIN)/python tools/benchmark.py tables
	$(if $(FOOTAGE),OMP_NUM_THREADS=1 $(BIN)/python tools/benchmark.py footage $(FOOTAGE) --figure docs/real_footage.png)
	$(BIN)/python tools/compute_table.py --latency --repeats 25
	$(BIN)/python tools/benchmark.py squeeze
	$(if $(FOOTAGE),$(BIN)/python tools/benchmark.py mocrop --real $(FOOTAGE) --sparse-clips 205 --figure docs/mocrop_coverage.png)
	$(if $(VIDEO),taskset -c 0 $(BIN)/python tools/benchmark.py reading $(VIDEO) --transcode mpeg4 --repeats 41)

# links and references that lead nowhere are errors
docs: $(BIN)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open build/site/index.html"

$(BIN)/.docs: $(BIN)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	@touch $@

test: setup
	$(PYTEST) -m "not slow"

test-all: setup
	$(PYTEST) --hypothesis-profile thorough $(if $(ONLY),-m $(ONLY))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then set -x; $(BIN)/mypy; else \
	echo "mypy is left out: it needs the annotations that numpy and PyAV have for Python 3.11 and later"; fi

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
