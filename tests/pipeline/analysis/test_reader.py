"""The results as a pyarrow dataset."""

from __future__ import annotations

from pycocotools import mask as coco_mask
from support.results import table

from pipeline.analysis.reader import results_dataset
from pipeline.schema import RESULTS
from pipeline.storage import Place


def test_the_dataset_has_the_schema_of_the_results(output: Place, rows: list[dict]) -> None:
    read = results_dataset(output).to_table()
    assert read.schema.equals(RESULTS)
    by_uri = {row["uri"]: row for row in read.to_pylist()}
    assert by_uri == {row["uri"]: row for row in table(rows).to_pylist()}


def test_a_row_decodes_with_pycocotools(output: Place, annotations: dict) -> None:
    row = next(r for r in results_dataset(output).to_table().to_pylist() if r["rle"])
    mask = coco_mask.decode({"size": [row["height"], row["width"]], "counts": row["rle"][0]})
    assert mask.shape == (row["height"], row["width"])
    assert mask.sum() == row["area"][0]
