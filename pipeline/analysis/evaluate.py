"""How good an output is against COCO annotations: average precision of masks and boxes by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.analysis.file_name_matching import match
from pipeline.analysis.original_images import file_addresses
from pipeline.analysis.reader import results_dataset
from pipeline.errors import InputError
from pipeline.output.description import read_description
from pipeline.storage import Place, explain, place

Json = dict[str, Any]


def evaluate(output: Place, annotations: str | os.PathLike[str], max_detections: int = 500) -> Json:
    """COCO average precision of an output, over the annotated images that have a row.

    An image that failed counts as one without detections. Images are matched by file name (see
    `pipeline.analysis.file_name_matching`). Categories are matched by name, or by id if they have no name in common; a
    category of the annotations that the output does not know counts as never found.

    Args:
        annotations: COCO instances JSON, a path or URL.
        max_detections: detections of an image and category that count, best first. COCO's own 100 is too
            few for images of many objects.

    Returns:
        "segm" and "bbox" as `average_precision` gives them, and what was compared: "images",
        "images_failed", "images_without_result", "images_without_annotation", "instances" (annotated),
        "detections", "categories" (names), "categories_unmatched" (names), "matched_by" ("name" or "id")
        and "max_detections".

    Raises:
        InputError: the annotations or the output cannot be read, no image or no category is common, a file
            name is ambiguous, or the size of an image is not what the annotations say.
    """
    truth = _read(annotations, output)
    dataset = results_dataset(output)
    rows = dataset.to_table(columns=["image_id", "uri", "width", "height", "error"]).to_pylist()
    names = [image["file_name"] for image in truth["images"]]
    addresses = file_addresses(output)
    files = [addresses.get(row["image_id"], row["uri"]) for row in rows]
    pairs = [(truth["images"][i], rows[j]) for i, j in match(files, names).items()]
    if not pairs:
        shown = ", ".join(names[:3])
        raise InputError(
            f"none of the {len(names)} images of {annotations} ({shown}, ...) is in {output.url} "
            f"({len(rows)} images: {', '.join(row['uri'] for row in rows[:3])}, ...): they are matched by file name"
        )
    _check_sizes(pairs, annotations)
    ids = {row["image_id"]: image["id"] for image, row in pairs}
    found = dataset.to_table(
        columns=["image_id", "width", "height", "category_id", "category", "score", "bbox", "rle"],
        filter=pc.field("image_id").isin(pa.array(list(ids), pa.int64())) & pc.field("error").is_null(),
    ).to_pylist()
    matched_by, category_ids = _categories(truth["categories"], _known(output, found), annotations)
    key = "category" if matched_by == "name" else "category_id"
    results = [r for row in found for r in _results(row, ids[row["image_id"]], key, category_ids)]
    chosen = set(ids.values())
    compared = {
        "images": [image for image, _ in pairs],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in chosen],
        "categories": truth["categories"],
    }
    return average_precision(compared, results, max_detections) | {
        "images": len(pairs),
        "images_failed": sum(row["error"] is not None for _, row in pairs),
        "images_without_result": len(names) - len(pairs),
        "images_without_annotation": len(rows) - len(pairs),
        "instances": len(compared["annotations"]),
        "detections": len(results),
        "categories": [c["name"] for c in truth["categories"]],
        "categories_unmatched": [c["name"] for c in truth["categories"] if c["id"] not in category_ids.values()],
        "matched_by": matched_by,
        "max_detections": max_detections,
    }


def average_precision(dataset: Json, results: Sequence[Json], max_detections: int) -> dict[str, Any]:
    """COCO AP of results against a dataset, both as in COCO's JSON.

    Args:
        dataset: COCO instances: `images`, `annotations`, `categories`.
        results: each with `image_id`, `category_id`, `score`, `bbox` (x, y, width, height) and
            `segmentation` (compressed RLE).
        max_detections: detections of an image and category that count, best first.

    Returns:
        {"segm": figures, "bbox": figures}; the figures are "AP" (mean over IoU 0.50 to 0.95), "AP50",
        "AP75", "AP_small", "AP_medium" and "AP_large" (by COCO's areas), 0..1, or None where the dataset
        has no such object.

    Raises:
        InputError: an annotation has no mask.
    """
    truth, figures = _truth(dataset), {}
    areas = {
        "segm": [int(coco_mask.area(r["segmentation"])) for r in results],  # a list of over 255 overflows in 2.0.11
        "bbox": [r["bbox"][2] * r["bbox"][3] for r in results],
    }
    for kind, sizes in areas.items():
        detections = [
            {**result, "id": i, "area": size, "iscrowd": 0}
            for i, (result, size) in enumerate(zip(results, sizes, strict=True), start=1)
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            evaluation = COCOeval(_coco(dataset, truth), _coco(dataset, detections), kind)
            # `summarize` looks for 100 among the limits; the figures come from the precision itself instead.
            evaluation.params.maxDets = [max_detections]
            evaluation.evaluate()
            evaluation.accumulate()
        figures[kind] = _figures(evaluation)
    return figures


def _figures(evaluation: COCOeval) -> dict[str, float | None]:
    """The means that COCO reports, from the precision at each (IoU, recall, category, area, limit)."""
    precision, params = evaluation.eval["precision"][..., -1], evaluation.params

    def mean(iou: float | None = None, area: str = "all") -> float | None:
        values = precision[..., params.areaRngLbl.index(area)]
        if iou is not None:
            values = values[np.isclose(params.iouThrs, iou)]
        values = values[values > -1]
        return float(values.mean()) if values.size else None

    sizes = {f"AP_{area}": mean(area=area) for area in ("small", "medium", "large")}
    return {"AP": mean(), "AP50": mean(0.5), "AP75": mean(0.75)} | sizes


def _truth(dataset: Json) -> list[Json]:
    """The annotations of the dataset's images with every field COCOeval wants.

    They are numbered from 1: COCOeval takes an id of 0 for no match.

    Raises:
        InputError: an annotation has no mask, or one that pycocotools cannot read.
    """
    index, annotations = _coco(dataset, []), []
    own = (a for a in dataset["annotations"] if a["image_id"] in index.imgs)
    for number, annotation in enumerate(own, start=1):
        if not annotation.get("segmentation"):
            raise InputError(f"annotation {annotation.get('id')} has no segmentation, so mask AP cannot be measured")
        try:
            rle = index.annToRLE(annotation)
        except Exception as error:  # pycocotools raises whatever it stumbles over
            raise InputError(f"the segmentation of annotation {annotation.get('id')} is damaged: {error}") from None
        whole = {"area": int(coco_mask.area(rle)), "bbox": coco_mask.toBbox(rle).tolist(), "iscrowd": 0}
        annotations.append({**whole, **annotation, "segmentation": rle, "id": number})
    return annotations


def _coco(dataset: Json, annotations: list[Json]) -> COCO:
    """pycocotools' index of the dataset's images with these annotations; it gets copies, as it changes them."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {**dataset, "annotations": [dict(a) for a in annotations]}
        coco.createIndex()
    return coco


def _results(row: Json, image_id: Any, key: str, category_ids: dict[Any, int]) -> list[Json]:
    """The instances of a row as COCO results, without those of categories that are not annotated."""
    size = [row["height"], row["width"]]
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[category],
            "score": score,
            "bbox": bbox,
            "segmentation": {"size": size, "counts": counts},
        }
        for category, score, bbox, counts in zip(row[key], row["score"], row["bbox"], row["rle"], strict=True)
        if category in category_ids
    ]


def _known(output: Place, found: list[Json]) -> dict[int, str]:
    """Category ids and names of the output: what its metadata says, and what its rows hold."""
    known = {int(k): name for k, name in read_description(output).get("classes", {}).items()}
    pairs = (zip(row["category_id"], row["category"], strict=True) for row in found)
    return known | {k: name for row in pairs for k, name in row}


def _categories(
    annotated: list[Json], known: dict[int, str], annotations: str | os.PathLike[str]
) -> tuple[str, dict[Any, int]]:
    """("name" or "id", the annotations' category id for the output's name or id).

    Raises:
        InputError: neither names nor ids are common.
    """
    if names := {c["name"]: c["id"] for c in annotated if c["name"] in known.values()}:
        return "name", names
    if (ids := {c["id"]: c["id"] for c in annotated if c["id"] in known}) or not known:
        return "id", ids
    theirs = ", ".join(f"{c['id']} {c['name']}" for c in annotated)
    ours = ", ".join(f"{k} {name}" for k, name in known.items())
    raise InputError(f"no category of {annotations} ({theirs}) is one of the output's ({ours}), by name or by id")


def _check_sizes(pairs: list[tuple[Json, Json]], annotations: str | os.PathLike[str]) -> None:
    """Masks of different sizes have no overlap for pycocotools, which would look like a bad result."""
    for image, row in pairs:
        said, found = (image["width"], image["height"]), (row["width"], row["height"])
        if None not in found and said != found:
            raise InputError(
                f"{row['uri']} is {found[0]}x{found[1]} pixels but {said[0]}x{said[1]} in {annotations}: "
                "annotations and images must be of one size"
            )


def _read(annotations: str | os.PathLike[str], output: Place) -> Json:
    """The annotations, checked for what is needed of them.

    Raises:
        InputError: they cannot be read or are no COCO instances.
    """
    source = place(annotations)
    source = Place(source.url, output.options) if source.protocol == output.protocol else source
    try:
        content = json.loads(source.fs.cat_file(source.path))
    except ValueError:
        raise InputError(f"{source.url} is not JSON: give COCO instances (images, annotations, categories)") from None
    except Exception as error:  # every store has errors of its own
        raise explain(source.url, error) from None
    needs = {
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("image_id", "category_id"),
        "categories": ("id", "name"),
    }
    for name, keys in needs.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise InputError(
                f"{source.url} has no list {name!r}: give COCO instances (images, annotations, categories)"
            )
        for record in content[name]:
            if missing := [k for k in keys if k not in record]:
                raise InputError(f"{source.url}: a record of {name!r} has no {missing[0]!r} ({str(record)[:80]})")
    return content
