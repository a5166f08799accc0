# The whole vocabulary of the project. Each target sets up what it needs: Python 3.11+ and pip are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MINUTES ?= 10

.PHONY: demo test lint bench soak clean

demo: $(READY)  ## the main job on real images from a real local S3, and a picture of the result
	$(BIN)/maskfleet demo

test: $(READY)
	$(BIN)/python -m pytest

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
