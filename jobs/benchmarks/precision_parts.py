"""The measurements of `maskfleet benchmark precision`: rounds parts of the network to bfloat16 and measures AP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN

from jobs.sample import DATA
from model import MaskRCNN, mask_rcnn, rle
from model.layers import rpn
from pipeline.analysis.coco_ap import average_precision

MAX_DETECTIONS = 500
Predict = Callable[[np.ndarray], list[tuple[float, dict[str, Any]]]]  # uint8 (H, W, 3) to scores and COCO RLEs


@contextmanager
def round_to_bfloat16(network: MaskRCNN, part: str) -> Iterator[None]:
    """Rounds the float32 values of one part of the network to bfloat16 while the context is active.

    Args:
        network: the network.
        part: "boxes" (wherever they are decoded), "scores", "masks", or "" for none.
    """
    decoders = mask_rcnn.decode, rpn.decode
    if part == "boxes":
        mask_rcnn.decode = rpn.decode = lambda *args: _round(decoders[0](*args))  # type: ignore[assignment]
    elif part == "scores":
        detect = network.detect
        network.detect = lambda *args: _round_scores(*detect(*args))  # type: ignore[method-assign]
    elif part == "masks":
        predict_masks = network.predict_masks
        network.predict_masks = lambda *args: _round(predict_masks(*args))  # type: ignore[method-assign]
    try:
        yield
    finally:
        mask_rcnn.decode, rpn.decode = decoders
        for name in ("detect", "predict_masks"):
            network.__dict__.pop(name, None)


def our_predictions(network: MaskRCNN) -> Predict:
    """Returns a function that predicts with our network."""

    def predict(image: np.ndarray) -> list[tuple[float, dict[str, Any]]]:
        found, size = network.predict([image])[0], image.shape[:2]
        counts = rle.encode(found.masks, found.boxes, *size, paste=network.preset.mask_paste)
        rles = [{"size": list(size), "counts": c} for c in counts]
        return list(zip(found.scores.tolist(), rles, strict=True))

    return predict


def autocast_predictions(network: TorchvisionMaskRCNN) -> Predict:
    """Returns a function that predicts with torchvision's network under autocast to bfloat16."""

    @torch.inference_mode()
    def predict(image: np.ndarray) -> list[tuple[float, dict[str, Any]]]:
        with torch.autocast("cpu", torch.bfloat16):
            found = network([torch.from_numpy(image).permute(2, 0, 1).float() / 255])[0]
        masks = (found["masks"][:, 0].float() > 0.5).numpy().astype(np.uint8)
        rles = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
        return list(zip(found["scores"].float().tolist(), rles, strict=True))

    return predict


def mask_average_precision(predict: Predict) -> float:
    """Measures mask AP on the sample images."""
    dataset, results = json.loads((DATA / "annotations.json").read_text()), []
    category = dataset["categories"][0]["id"]
    for record in dataset["images"]:
        image = np.array(Image.open(DATA / "images" / record["file_name"]).convert("RGB"))
        results += [
            {
                "image_id": record["id"],
                "category_id": category,
                "segmentation": mask,
                "score": score,
                "bbox": coco_mask.toBbox(mask).tolist(),
            }
            for score, mask in predict(image)
        ]
    return float(average_precision(dataset, results, MAX_DETECTIONS)["segm"]["AP"])


def _round(values: Tensor) -> Tensor:
    return values.bfloat16().float()


def _round_scores(rois: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return rois, _round(scores), labels
