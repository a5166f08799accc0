"""An output with every kind of row, for the tests that read outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.results import failed, perfect, segmented, subset, write_output

from pipeline.storage import Place


@pytest.fixture(scope="session")
def rows(annotations: dict) -> list[dict]:
    """Rows of six images of nuclei, one image without instances and three that failed."""
    good = perfect(subset(annotations, 6))
    empty = segmented("s3://lab/plates/empty.png", 64, 48, [])
    bad = [
        failed("s3://lab/plates/cut.png", "DamagedImage: truncated: 12 bytes of 90"),
        failed("s3://lab/plates/html.jpg", "DamagedImage: not an image"),
        failed("s3://lab/plates/large.tif", "TooLarge: 4000000000 pixels", 80000, 50000),
    ]
    return [*good, empty, *bad]


@pytest.fixture
def output(rows: list[dict], tmp_path: Path) -> Place:
    """An output with these rows; one more image is catalogued but not done."""
    return write_output(tmp_path / "out", rows, waiting=["s3://lab/plates/later.png"])
