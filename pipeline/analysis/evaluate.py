"""Evaluates an output against COCO annotations: matches images and categories, then computes COCO AP.

To add a metric, compute it in `pipeline.analysis.coco_ap`, or in a module beside it that `evaluate` calls, and show it
in `jobs.evaluate`.
"""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analysis.annotations import read_annotations
from pipeline.analysis.coco_ap import average_precision
from pipeline.analysis.file_name_matching import match_file_names
from pipeline.analysis.original_images import file_addresses
from pipeline.analysis.reader import results_dataset
from pipeline.errors import InputError
from pipeline.output.description import read_description
from pipeline.storage import Place

Json = dict[str, Any]


def evaluate(output: Place, annotations: str | os.PathLike[str], max_detections: int = 500) -> Json:
    """Computes the COCO average precision of an output, over the annotated images that have a row.

    An image that failed counts as an image without detections. Images are matched by file name, see
    `pipeline.analysis.file_name_matching`. Categories are matched by name, or by id if no name is common. An annotated
    category that the output does not know counts as never found.

    Args:
        output: root of the output.
        annotations: COCO instances JSON, a path or URL.
        max_detections: detections per image and category that count, best first. COCO's usual 100 is too few for
            images with many objects.

    Returns:
        "segm" and "bbox" as `average_precision` gives them, and what was compared: "images", "images_failed",
        "images_without_result", "images_without_annotation", "instances" (annotated), "detections",
        "categories" (names), "categories_unmatched" (names), "matched_by" ("name" or "id") and "max_detections".

    Raises:
        InputError: the annotations or the output cannot be read, no image or no category is common, a file name is
            ambiguous, or an image does not have the size that the annotations say.
    """
    truth = read_annotations(annotations, output)
    dataset = results_dataset(output)
    rows = dataset.to_table(columns=["image_id", "uri", "width", "height", "error"]).to_pylist()
    pairs = _match_images(truth["images"], rows, output, annotations)
    _check_sizes(pairs, annotations)
    annotated_ids = {row["image_id"]: image["id"] for image, row in pairs}
    found = dataset.to_table(
        columns=["image_id", "width", "height", "category_id", "category", "score", "bbox", "rle"],
        filter=pc.field("image_id").isin(pa.array(list(annotated_ids), pa.int64())) & pc.field("error").is_null(),
    ).to_pylist()
    matched_by, category_ids = _match_categories(truth["categories"], _known_categories(output, found), annotations)
    key = "category" if matched_by == "name" else "category_id"
    results = [r for row in found for r in _coco_results(row, annotated_ids[row["image_id"]], key, category_ids)]
    compared_ids = set(annotated_ids.values())
    compared = {
        "images": [image for image, _ in pairs],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in compared_ids],
        "categories": truth["categories"],
    }
    return average_precision(compared, results, max_detections) | {
        "images": len(pairs),
        "images_failed": sum(row["error"] is not None for _, row in pairs),
        "images_without_result": len(truth["images"]) - len(pairs),
        "images_without_annotation": len(rows) - len(pairs),
        "instances": len(compared["annotations"]),
        "detections": len(results),
        "categories": [c["name"] for c in truth["categories"]],
        "categories_unmatched": [c["name"] for c in truth["categories"] if c["id"] not in category_ids.values()],
        "matched_by": matched_by,
        "max_detections": max_detections,
    }


def _match_images(
    images: list[Json], rows: list[Json], output: Place, annotations: str | os.PathLike[str]
) -> list[tuple[Json, Json]]:
    """(annotated image, row) pairs with the same file name.

    Raises:
        InputError: there is none, or a file name is ambiguous.
    """
    names = [image["file_name"] for image in images]
    addresses = file_addresses(output)
    files = [addresses.get(row["image_id"]) or row["uri"] for row in rows]
    pairs = [(images[i], rows[j]) for i, j in match_file_names(files, names).items()]
    if not pairs:
        raise InputError(
            f"none of the {len(names)} images of {annotations} ({', '.join(names[:3])}, ...) is in {output.url} "
            f"({len(rows)} images: {', '.join(row['uri'] for row in rows[:3])}, ...): they are matched by file name"
        )
    return pairs


def _check_sizes(pairs: list[tuple[Json, Json]], annotations: str | os.PathLike[str]) -> None:
    """Checks that images have the annotated size. pycocotools finds no overlap between masks of different sizes.

    Raises:
        InputError: an image has another size; its AP would look like a bad result.
    """
    for image, row in pairs:
        annotated, actual = (image["width"], image["height"]), (row["width"], row["height"])
        if None not in actual and annotated != actual:
            raise InputError(
                f"{row['uri']} is {actual[0]}x{actual[1]} pixels but {annotated[0]}x{annotated[1]} in {annotations}: "
                "annotations and images must have the same size"
            )


def _known_categories(output: Place, rows: list[Json]) -> dict[int, str]:
    """Category names of the output by id: those in its metadata and those in its rows."""
    known = {int(k): name for k, name in read_description(output).get("classes", {}).items()}
    pairs = (zip(row["category_id"], row["category"], strict=True) for row in rows)
    return known | {k: name for row in pairs for k, name in row}


def _match_categories(
    annotated: list[Json], known: dict[int, str], annotations: str | os.PathLike[str]
) -> tuple[str, dict[Any, int]]:
    """("name" or "id", annotated category id by the output's category name or id).

    Raises:
        InputError: no name and no id is common.
    """
    if names := {c["name"]: c["id"] for c in annotated if c["name"] in known.values()}:
        return "name", names
    if (ids := {c["id"]: c["id"] for c in annotated if c["id"] in known}) or not known:
        return "id", ids
    theirs = ", ".join(f"{c['id']} {c['name']}" for c in annotated)
    ours = ", ".join(f"{k} {name}" for k, name in known.items())
    raise InputError(f"no category of {annotations} ({theirs}) is one of the output's ({ours}), by name or by id")


def _coco_results(row: Json, image_id: Any, key: str, category_ids: dict[Any, int]) -> list[Json]:
    """The instances of a row as COCO results, without instances of categories that are not annotated."""
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
