"""COCO average precision. Its values are checked against pycocotools in test_evaluate.py."""

from __future__ import annotations

import json

import numpy as np
from support.results import DESCRIPTION, perfect, subset

from pipeline.analysis.coco_ap import average_precision


def test_average_precision_does_not_modify_its_arguments(annotations: dict) -> None:
    small = subset(annotations, 4)
    small["images"] = small["images"][:3]
    before = json.dumps(small)
    row = perfect(small)[0]
    results = [
        {
            "image_id": small["images"][0]["id"],
            "category_id": 1,
            "score": float(np.float32(s)),
            "bbox": b,
            "segmentation": {"size": [row["height"], row["width"]], "counts": c},
        }
        for s, b, c in zip(row["score"], row["bbox"], row["rle"], strict=True)
    ]
    copy = json.dumps(results)
    assert average_precision(small, results, DESCRIPTION["max_detections"])["segm"]["AP50"] > 0
    assert (json.dumps(small), json.dumps(results)) == (before, copy)
