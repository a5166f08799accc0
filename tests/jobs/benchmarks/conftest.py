"""Weights that make the benchmarks short."""

from __future__ import annotations

import pytest

from model import read_checkpoint
from model.checkpoints.save import write_checkpoint


@pytest.fixture(scope="session")
def small_input_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The shipped weights with a small input."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    nuclei = read_checkpoint("nuclei")
    write_checkpoint(path, nuclei.state, nuclei.preset.replace(min_size=240, max_size=320), {})
    return str(path)
