# The whole vocabulary of the project. Each target sets up what it needs: Python 3.11+ and pip are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MINUTES ?= 10

# Two workers: one runs the tests that start jobs, the other the rest, file by file; see tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

.PHONY: demo test test-fast lint bench soak clean

demo: $(READY)  ## the main job on real images from a real local S3, and a picture of the result
	$(BIN)/maskfleet demo

test: $(READY)  ## all tests, as CI runs them, and which of them took longest
	$(PYTEST) --durations=25

test-fast: $(READY)  ## the tests that start no job and are not marked slow: for the next edit
	$(PYTEST) -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## the figures of BENCHMARKS.md
	$(BIN)/maskfleet benchmark model --images tests/data/photos --size 480x640 --compile
	$(BIN)/maskfleet benchmark model --images tests/data/photos --size 3000x4000
	$(BIN)/maskfleet benchmark model --weights nuclei
	$(BIN)/maskfleet benchmark precision
	$(BIN)/maskfleet benchmark rle
	$(BIN)/maskfleet benchmark catalog
	$(BIN)/maskfleet benchmark restart --images 6000
	$(BIN)/maskfleet benchmark slide

soak: $(READY)  ## breaks a job at random for MINUTES and prints what became of its rows
	PYTHONPATH=. $(BIN)/python tests/soak.py --minutes $(MINUTES)

clean:
	rm -rf $(VENV) build *.egg-info demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	./install.sh $(PYTHON) $(VENV)
	@touch $@
