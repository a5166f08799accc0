"""Ray's read tasks for the catalog: they read the right rows and cost the driver few bytes for each image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ray import cloudpickle

from pipeline.catalog.catalog_files import CatalogWriter
from pipeline.catalog.id_set import NO_IDS
from pipeline.catalog.slices import SLICE_IMAGES, unfinished_slices
from pipeline.schema import CATALOG, image_id
from pipeline.stages.source import CatalogSource
from pipeline.storage import Place, place


def catalogued(folder: Path, images: int) -> Place:
    """An output with a catalog of loose images."""
    uris = [f"s3://lab/plates/{n:09d}.tif" for n in range(images)]
    columns = {name: pa.nulls(images, CATALOG.field(name).type) for name in CATALOG.names}
    columns |= {"image_id": pa.array(map(image_id, uris), pa.int64()), "uri": uris, "container": uris}
    columns |= {
        "kind": ["image"] * images,
        "offset": [0] * images,
        "length": [1000] * images,
        "version": ["1"] * images,
    }
    output = place(folder)
    writer = CatalogWriter(output)
    writer.add(pa.table(columns, CATALOG))
    writer.flush()
    return output


@pytest.mark.parametrize(
    ("every", "most"), [(1, 10.0), (2, 14.0)], ids=["consecutive rows", "every second row is done"]
)
def test_tasks_are_small_and_read_their_rows(every: int, most: float, tmp_path: Path) -> None:
    sizes: list[tuple[int, int]] = []
    for images in (6_400, 64_000):
        output = catalogued(tmp_path / str(images), images)
        ids = np.array([image_id(f"s3://lab/plates/{n:09d}.tif") for n in range(images)])
        done = np.sort(ids[1::every]) if every > 1 else NO_IDS
        tasks = CatalogSource(output, unfinished_slices(output, done)).get_read_tasks(1)
        pickled = [cloudpickle.dumps(task) for task in tasks]
        sizes.append((images // every, sum(map(len, pickled))))
        some = pickled[:: len(pickled) // 5]
        read = [pa.concat_tables(cloudpickle.loads(task)())["image_id"].to_pylist() for task in some]
        owed = ids[::every]
        starts = np.arange(0, len(owed), SLICE_IMAGES)[:: len(pickled) // 5]
        assert read == [owed[i : i + SLICE_IMAGES].tolist() for i in starts]
    (few, small), (many, large) = sizes
    assert (large - small) / (many - few) < most
