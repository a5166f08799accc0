"""COCO average precision of masks and boxes, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.errors import InputError

Json = dict[str, Any]


def average_precision(dataset: Json, results: Sequence[Json], max_detections: int) -> dict[str, Any]:
    """Computes the COCO AP of results against a dataset. Both are in COCO's JSON form and are not modified.

    Args:
        dataset: COCO instances: `images`, `annotations`, `categories`.
        results: each with `image_id`, `category_id`, `score`, `bbox` (x, y, width, height) and `segmentation`
            (compressed RLE).
        max_detections: detections per image and category that count, best first.

    Returns:
        {"segm": figures, "bbox": figures}. The figures are "AP" (mean over IoU 0.50 to 0.95), "AP50", "AP75",
        "AP_small", "AP_medium" and "AP_large" (COCO's areas), each from 0 to 1, or None if the dataset has no object of
        that size.

    Raises:
        InputError: an annotation has no mask, or one that pycocotools cannot read.
    """
    annotations, figures = _complete_annotations(dataset), {}
    areas = {
        # One call per mask: in pycocotools 2.0.11 a list of more than 255 overflows.
        "segm": [int(coco_mask.area(r["segmentation"])) for r in results],
        "bbox": [r["bbox"][2] * r["bbox"][3] for r in results],
    }
    for kind, sizes in areas.items():
        detections = [
            {**result, "id": i, "area": size, "iscrowd": 0}
            for i, (result, size) in enumerate(zip(results, sizes, strict=True), start=1)
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            evaluation = COCOeval(_coco(dataset, annotations), _coco(dataset, detections), kind)
            # `summarize` expects 100 among the limits. So the figures are computed from the precision itself.
            evaluation.params.maxDets = [max_detections]
            evaluation.evaluate()
            evaluation.accumulate()
        figures[kind] = _figures(evaluation)
    return figures


def _figures(evaluation: COCOeval) -> dict[str, float | None]:
    """Averages the precision at each (IoU, recall, category, area, limit), as COCO's `summarize` does."""
    precision, params = evaluation.eval["precision"][..., -1], evaluation.params

    def mean(iou: float | None = None, area: str = "all") -> float | None:
        values = precision[..., params.areaRngLbl.index(area)]
        if iou is not None:
            values = values[np.isclose(params.iouThrs, iou)]
        values = values[values > -1]
        return float(values.mean()) if values.size else None

    sizes = {f"AP_{area}": mean(area=area) for area in ("small", "medium", "large")}
    return {"AP": mean(), "AP50": mean(0.5), "AP75": mean(0.75)} | sizes


def _complete_annotations(dataset: Json) -> list[Json]:
    """The annotations of the dataset's images with every field that COCOeval needs.

    They are numbered from 1, because COCOeval reads an id of 0 as "no match".

    Raises:
        InputError: an annotation has no mask, or one that pycocotools cannot read.
    """
    index, annotations = _coco(dataset, []), []
    of_images = (a for a in dataset["annotations"] if a["image_id"] in index.imgs)
    for number, annotation in enumerate(of_images, start=1):
        if not annotation.get("segmentation"):
            raise InputError(f"annotation {annotation.get('id')} has no segmentation, so mask AP cannot be computed")
        try:
            rle = index.annToRLE(annotation)
        except Exception as error:  # pycocotools raises many kinds of errors
            raise InputError(f"the segmentation of annotation {annotation.get('id')} is damaged: {error}") from None
        defaults = {"area": int(coco_mask.area(rle)), "bbox": coco_mask.toBbox(rle).tolist(), "iscrowd": 0}
        annotations.append({**defaults, **annotation, "segmentation": rle, "id": number})
    return annotations


def _coco(dataset: Json, annotations: list[Json]) -> COCO:
    """Builds pycocotools' index of the images with these annotations. It gets copies, because it modifies them."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {**dataset, "annotations": [dict(a) for a in annotations]}
        coco.createIndex()
    return coco
