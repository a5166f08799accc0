"""Checks an output after a fault: against the images that were asked for, and against an undisturbed run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pycocotools import mask as coco_mask

from pipeline.schema import RESULTS
from pipeline.storage import Place

Row = dict[str, Any]
BOX_TOLERANCE = 1e-3  # pixels
MASK_IOU = 0.999


@dataclass(frozen=True)
class ReferenceJob:
    """A job in which nothing was broken but some of its shards.

    Attributes:
        rows: the rows of the sources, by file name.
        cut: tar shards that were cut off at different places; the sources are their members.
        of_cut: the rows of the images in the shards, by address.
        record: of the run.
    """

    rows: dict[str, Row]
    cut: list[Path]
    of_cut: dict[str, Row]
    record: dict[str, Any]


@dataclass
class OutputCheck:
    """What is wrong with an output; all lists are empty if nothing is.

    Attributes:
        rows: in the results.
        lost: asked for, without a row.
        doubled: rows beyond the first of an image.
        unexpected: rows of images that were not asked for.
        catalog_differs: asked for and not in the catalog, or in it twice, or in it and not asked for.
        stray: files below results/ that are not complete Parquet files of the schema.
        pending: checkpoints that were not committed.
    """

    rows: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    catalog_differs: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> dict[str, list[str]]:
        """The lists that are not empty, by name."""
        return {k: v for k, v in vars(self).items() if k != "rows" and v}


def check_output(output: Place, inputs: Iterable[str]) -> OutputCheck:
    """Checks an output whose job has ended.

    Args:
        inputs: the addresses of all images, as the test made them: independent of the catalog.
    """
    asked, found = Counter(inputs), OutputCheck()
    assert max(asked.values(), default=1) == 1, "the test names an image twice"
    files, found.stray = _results(output)
    rows = Counter(uri for table in files for uri in table["uri"].to_pylist())
    ids = Counter(i for table in files for i in table["image_id"].to_pylist())
    found.rows = rows.total()
    found.lost = sorted(asked.keys() - rows.keys())
    found.doubled = sorted((rows - asked).keys() & asked.keys()) + [str(i) for i, n in ids.items() if n > 1]
    found.unexpected = sorted(rows.keys() - asked.keys())
    catalog = Counter(
        uri
        for place in output.join("catalog").list(".parquet")
        for uri in pq.read_table(place.path, filesystem=place.arrow(), columns=["uri"])["uri"].to_pylist()
    )
    found.catalog_differs = sorted((catalog - asked) + (asked - catalog))
    found.pending = [p.path for p in output.join("_checkpoint").list(".pending.parquet")]
    return found


def assert_exact(output: Place, inputs: Iterable[str]) -> None:
    """Fails unless every image asked for has exactly one row and no partial file is left."""
    found = check_output(output, inputs)
    assert not found.wrong, {k: f"{len(v)}: {v[:3]}" for k, v in found.wrong.items()}


def rows_of(output: Place) -> dict[str, Row]:
    """Reads the rows of an output, by address."""
    files, _ = _results(output)
    return {row["uri"]: row for table in files for row in table.to_pylist()}


def differences(rows: dict[str, Row], reference: dict[str, Row], key: Callable[[str], str] = str) -> dict[str, str]:
    """Describes how rows differ from those of an undisturbed run, by address; empty if they do not.

    Args:
        key: gives the address in the reference for an address here.
    """
    found = {uri: difference(row, reference.get(key(uri))) for uri, row in rows.items()}
    return {uri: text for uri, text in found.items() if text}


def same_masks(output: Place, reference: dict[str, Row], key: Callable[[str], str] = str) -> None:
    """Fails unless all rows of an output are those of an undisturbed run."""
    different = differences(rows_of(output), reference, key)
    assert not different, f"{len(different)} rows differ: {dict(list(different.items())[:3])}"


def difference(row: Row, other: Row | None) -> str:
    """Describes how two rows differ by more than rounding; empty if they do not."""
    if other is None:
        return "not in the reference"
    for name in ("width", "height"):
        if row[name] != other[name]:
            return f"{name} {row[name]} and {other[name]}"
    if (row["error"] is None) != (other["error"] is None):
        return f"error {row['error']!r} and {other['error']!r}"
    if row["error"] is not None or row["rle"] == other["rle"]:
        return ""
    if len(row["rle"]) != len(other["rle"]):
        return f"{len(row['rle'])} and {len(other['rle'])} instances"
    boxes = np.abs(np.array(row["bbox"]) - np.array(other["bbox"])).max()
    if boxes > BOX_TOLERANCE:
        return f"boxes by {boxes:.4f} pixels"
    size = [row["height"], row["width"]]
    pairs = zip(row["rle"], other["rle"], strict=True)
    # Masks of no pixel have no IoU; equal ones are the same.
    overlap = [
        float(coco_mask.iou([{"size": size, "counts": a}], [{"size": size, "counts": b}], [0])[0, 0])
        for a, b in pairs
        if a != b
    ]
    return f"masks: IoU {min(overlap):.5f}" if min(overlap, default=1.0) < MASK_IOU else ""


def bit_equal(rows: dict[str, Row], reference: dict[str, Row], key: Callable[[str], str] = str) -> int:
    """Counts the rows whose masks are exactly those of the reference."""
    return sum(row["rle"] == reference[key(uri)]["rle"] for uri, row in rows.items() if key(uri) in reference)


def _results(output: Place) -> tuple[list[pa.Table], list[str]]:
    """Reads the complete files below results/, and names what else is there."""
    folder = output.join("results")
    folder.fs.invalidate_cache()
    if not folder.fs.exists(folder.path):
        return [], []
    tables, stray = [], []
    for path in sorted(folder.fs.find(folder.path)):
        try:
            table = pq.read_table(path, filesystem=folder.arrow())
        except (pa.ArrowException, OSError):
            table = None
        if table is None or not path.endswith(".parquet") or not table.schema.remove_metadata().equals(RESULTS):
            stray.append(PurePosixPath(path).name)
        if table is not None:
            tables.append(table)
    return tables, stray
