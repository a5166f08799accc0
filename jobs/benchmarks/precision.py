"""`maskfleet benchmark precision`: what half precision costs in mask AP, and in which part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from pycocotools import mask as coco_mask
from rich.table import Table
from torch import Tensor

from jobs.benchmarks.model import torchvision_of
from jobs.sample import DATA
from jobs.terminal.console import AsJson, console, err, errors_to_exit, print_json
from model import MaskRCNN, load_model, mask_rcnn, rle
from model.layers import rpn
from pipeline.analysis.evaluate import average_precision

MAX_DETECTIONS = 500
Predict = Callable[[np.ndarray], list[tuple[float, dict[str, Any]]]]


@errors_to_exit
def precision(
    weights: Annotated[str, typer.Option(help="A shipped name; it is measured on the demo's pictures.")] = "nuclei",
    as_json: AsJson = False,
) -> None:
    """Mask AP of the demo's 48 pictures with parts of the network in bfloat16.

    Float32 first; then the default (layers in bfloat16, what lies between them in float32); then that with one more
    part rounded to bfloat16; last torchvision's network under PyTorch's own autocast.
    """
    exact, halves = (load_model(weights, precision=p, device="cpu") for p in ("fp32", "bf16"))
    _, reference = torchvision_of(weights, np.zeros((64, 64, 3), np.uint8))
    found = {}
    for name, predict, changed in (
        ("fp32", _ours(exact), ""),
        ("layers", _ours(halves), ""),
        ("layers, boxes", _ours(halves), "boxes"),
        ("layers, scores", _ours(halves), "scores"),
        ("layers, masks", _ours(halves), "masks"),
        ("torchvision, autocast", _autocast(reference), ""),
    ):
        with _rounded(halves, changed):
            found[name] = _ap(predict)
        err.print(f"[dim]{name}: {found[name]:.4f}[/]")
    if as_json:
        return print_json(found)
    table = Table("in bfloat16", "mask AP", "against fp32", box=None, pad_edge=False)
    for name, ap in found.items():
        table.add_row(name if name != "fp32" else "nothing", f"{ap:.4f}", f"{ap - found['fp32']:+.4f}")
    console.print(table)
    return None


@contextmanager
def _rounded(network: MaskRCNN, part: str) -> Iterator[None]:
    """Rounds one part's float32 values to bfloat16: boxes wherever they are decoded, final scores, or masks."""
    kept = mask_rcnn.decode, rpn.decode
    if part == "boxes":
        mask_rcnn.decode = rpn.decode = lambda *given: _half(kept[0](*given))  # type: ignore[assignment]
    elif part == "scores":
        detect = network.detect
        network.detect = lambda *given: _second_half(*detect(*given))  # type: ignore[method-assign]
    elif part == "masks":
        outline = network.outline
        network.outline = lambda *given: _half(outline(*given))  # type: ignore[method-assign]
    try:
        yield
    finally:
        mask_rcnn.decode, rpn.decode = kept
        for name in ("detect", "outline"):
            network.__dict__.pop(name, None)


def _half(values: Tensor) -> Tensor:
    return values.bfloat16().float()


def _second_half(rois: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return rois, _half(scores), labels


def _ours(network: MaskRCNN) -> Predict:
    def predict(image: np.ndarray) -> list[tuple[float, dict[str, Any]]]:
        found, size = network.predict([image])[0], image.shape[:2]
        counts = rle.encode(found.masks, found.boxes, *size, paste=network.preset.mask_paste)
        rles = [{"size": list(size), "counts": c} for c in counts]
        return list(zip(found.scores.tolist(), rles, strict=True))

    return predict


def _autocast(network: torch.nn.Module) -> Predict:
    @torch.inference_mode()
    def predict(image: np.ndarray) -> list[tuple[float, dict[str, Any]]]:
        with torch.autocast("cpu", torch.bfloat16):
            found = network([torch.from_numpy(image).permute(2, 0, 1).float() / 255])[0]
        masks = (found["masks"][:, 0].float() > 0.5).numpy().astype(np.uint8)
        rles = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
        return list(zip(found["scores"].float().tolist(), rles, strict=True))

    return predict


def _ap(predict: Predict) -> float:
    """Mask AP on the demo's pictures."""
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
