"""A cluster of several nodes that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from raylets import Raylets


@pytest.fixture(scope="session")
def fleet() -> Iterator[Raylets]:
    """A head without CPUs, a node with two logical GPUs, and one with CPUs alone."""
    with Raylets() as raylets:
        raylets.add("gpu", num_cpus=2, num_gpus=2)
        raylets.add("cpu", num_cpus=2)
        yield raylets
