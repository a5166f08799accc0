"""Outputs to read back: real Parquet files of real masks, written by pyarrow as the job would."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pycocotools import mask as coco_mask

from pipeline.schema import CATALOG, RESULTS, image_id, with_description
from pipeline.storage import Place, place

LISTS = ("category_id", "category", "score", "bbox", "area", "rle")
DESCRIPTION = {"weights": "nuclei", "classes": {"1": "nucleus"}, "max_detections": 500}

Row = dict[str, Any]


def subset(annotations: dict, images: int) -> dict:
    """The first images of a COCO dataset and the one of most objects."""
    objects = defaultdict(int)
    for annotation in annotations["annotations"]:
        objects[annotation["image_id"]] += 1
    crowded = max(annotations["images"], key=lambda i: objects[i["id"]])
    chosen = [*[i for i in annotations["images"] if i is not crowded][: images - 1], crowded]
    ids = {i["id"] for i in chosen}
    return annotations | {
        "images": chosen,
        "annotations": [a for a in annotations["annotations"] if a["image_id"] in ids],
    }


def segmented(uri: str, width: int, height: int, instances: Sequence[Row]) -> Row:
    """A row of a segmented image; an instance has score, bbox, rle and, unless it is a nucleus, its category."""
    ordered = sorted(instances, key=lambda i: -i["score"])
    rles = [{"size": [height, width], "counts": i["rle"]} for i in ordered]
    return {
        "image_id": image_id(uri),
        "uri": uri,
        "width": width,
        "height": height,
        "error": None,
        "category_id": [i.get("category_id", 1) for i in ordered],
        "category": [i.get("category", "nucleus") for i in ordered],
        "score": [i["score"] for i in ordered],
        "bbox": [i["bbox"] for i in ordered],
        "area": coco_mask.area(rles).tolist() if rles else [],
        "rle": [i["rle"] for i in ordered],
    }


def failed(uri: str, error: str, width: int | None = None, height: int | None = None) -> Row:
    """A row of an image that failed."""
    sizes = {"width": width, "height": height}
    return {"image_id": image_id(uri), "uri": uri, "error": error} | sizes | dict.fromkeys(LISTS)


def perfect(annotations: dict, prefix: str = "s3://lab/plates/") -> list[Row]:
    """Rows whose instances are exactly what is annotated."""
    objects = defaultdict(list)
    for a in annotations["annotations"]:
        score = float(np.float32(1 / (1 + len(objects[a["image_id"]]))))
        objects[a["image_id"]].append({"score": score, "bbox": a["bbox"], "rle": a["segmentation"]["counts"]})
    return [
        segmented(prefix + i["file_name"], i["width"], i["height"], objects[i["id"]]) for i in annotations["images"]
    ]


def imperfect(annotations: dict, seed: int = 0) -> list[Row]:
    """Rows with a fifth of the instances missing and the others moved a little, with arbitrary scores."""
    generator, rows = np.random.default_rng(seed), []
    for row in perfect(annotations):
        instances = []
        for bbox, rle in zip(row["bbox"], row["rle"], strict=True):
            if generator.random() < 0.2:
                continue
            dx, dy = generator.integers(-2, 3, 2).tolist()
            mask = coco_mask.decode({"size": [row["height"], row["width"]], "counts": rle})
            moved = coco_mask.encode(np.asfortranarray(np.roll(mask, (dy, dx), (0, 1))))["counts"].decode()
            box = np.float32([bbox[0] + dx + 0.25, bbox[1] + dy - 0.25, bbox[2], bbox[3]]).tolist()
            instances.append({"score": float(np.float32(generator.random())), "bbox": box, "rle": moved})
        rows.append(segmented(row["uri"], row["width"], row["height"], instances))
    return rows


def table(rows: Sequence[Row], description: dict[str, Any] = DESCRIPTION) -> pa.Table:
    """The rows in the schema of the results."""
    return pa.Table.from_pylist(list(rows), with_description(RESULTS, description))


def write_output(
    folder: Path, rows: Sequence[Row], waiting: Sequence[str] = (), files: int = 3, **options: Any
) -> Place:
    """An output with these results in a number of files, and a catalog of them and of images still waiting.

    Args:
        options: of pyarrow's `write_table`.
    """
    for name in ("results", "catalog", "runs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(files):
        if part := rows[number::files]:
            pq.write_table(table(part), folder / "results" / f"{number}.parquet", compression="zstd", **options)
    entries = [
        {"image_id": image_id(u), "uri": u, "container": u, "kind": "image", "offset": 0, "length": 1, "version": "1"}
        for u in [*(row["uri"] for row in rows), *waiting]
    ]
    pq.write_table(pa.Table.from_pylist(entries, CATALOG), folder / "catalog" / "part.parquet")
    return place(folder)


def write_run(output: Place, name: str, started: str, weights: str = "nuclei") -> None:
    """A record of a run that ended."""
    record = {"run": name, "started": started, "seconds": 12.5, "images_to_do": 4, "images_per_second": 0.5}
    record |= {"description": {"weights": weights}}
    output.join("runs", f"{name}.json").put(json.dumps(record).encode())
