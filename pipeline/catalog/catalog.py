"""The catalog: one row for each image that the job was asked for, with the address of its bytes.

The images in the catalog that are not in the results are still to do. New images are added in new files. A
shard whose version has not changed is not opened again. Loose images are identified by their address alone. The
driver holds the ids of the images, 8 bytes each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.catalog.catalog_files import CatalogWriter, load_state
from pipeline.catalog.id_set import contains
from pipeline.catalog.inputs import Container
from pipeline.catalog.merge import CatalogMerger
from pipeline.catalog.shard_index import IndexOptions
from pipeline.storage import Place

DEFAULT_OPTIONS = IndexOptions()


@dataclass
class CatalogTotals:
    """What a catalog holds and how much of it is left.

    Attributes:
        images: images in the catalog.
        left: images without a result.
        bytes: stored bytes of the images that are left and whose size is known.
        unsized: images that are left and whose size is not known.
        kinds: images by kind of container ("image", "tar", "tgz", "parquet").
    """

    images: int = 0
    left: int = 0
    bytes: int = 0
    unsized: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


def update(
    root: Place,
    batches: Iterable[list[Container]],
    done: np.ndarray,
    options: IndexOptions = DEFAULT_OPTIONS,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Adds the images of new and changed containers to the catalog.

    An image that is in the catalog already keeps its row, unless its shard has changed. Then the whole catalog is
    rewritten: old files are deleted once all new ones are written. Images that a changed shard no longer holds are
    dropped, unless they have a result.

    A crash loses no image. The rows of one shard are in one file, which appears only when it is complete. A rewrite
    that was interrupted leaves duplicate rows; the next update finds them and rewrites the catalog again.

    Args:
        root: the place that holds catalog/; usually the output.
        batches: containers, in batches; see `pipeline.catalog.inputs.find_containers`. Duplicates count once.
        done: int64, sorted: ids of the images that have their row in the results.
        options: which images of a shard to catalog.
        report: called with (new containers read, new containers found so far).

    Returns:
        Number of images in the catalog.

    Raises:
        InputError: a shard cannot be read, or was catalogued with another column.
    """
    folder = root.join("catalog")
    with CatalogMerger(load_state(folder), CatalogWriter(root), options, report) as merger:
        for batch in batches:
            merger.add(batch)
        merger.flush()
        if merger.needs_rewrite(done):
            merger.rewrite(done)
    return sum(pq.read_metadata(file.path, filesystem=file.arrow()).num_rows for file in folder.list(".parquet"))


def totals(root: Place, done: np.ndarray) -> CatalogTotals:
    """Counts what the catalog holds and how much of it is left. It reads three columns.

    Args:
        root: the place that holds catalog/; usually the output.
        done: int64, sorted: ids of the images that have their row in the results.
    """
    sums = CatalogTotals()
    for file in root.join("catalog").list(".parquet"):
        table = pq.read_table(file.path, filesystem=file.arrow(), columns=["image_id", "kind", "length"])
        left = table.filter(pa.array(~contains(done, table["image_id"].to_numpy())))
        sums.images += len(table)
        sums.left += len(left)
        sums.bytes += pc.sum(left["length"]).as_py() or 0
        sums.unsized += left["length"].null_count
        for pair in pc.value_counts(table["kind"]).to_pylist():
            sums.kinds[pair["values"]] += pair["counts"]
    return sums
