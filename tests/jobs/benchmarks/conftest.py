"""Weights that make the benchmarks short."""

from __future__ import annotations

import pytest

from model import read_checkpoint
from model.checkpoints.save import write_checkpoint


@pytest.fixture(scope="session")
def small_input_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The shipped weights with a small input, few proposals and few detections."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    nuclei = read_checkpoint("nuclei")
    small = nuclei.preset.replace(min_size=120, max_size=160, rpn_post_nms=60, max_detections=25)
    write_checkpoint(path, nuclei.state, small, {})
    return str(path)
