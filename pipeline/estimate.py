"""What a job would do: its catalog, its size, and how long it may take. Nothing is segmented but a few images."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from model import Checkpoint, MaskRCNN, load_model, rle
from model.transform import shrink
from pipeline import catalog
from pipeline.decode import BadImageError, open_image, to_rgb
from pipeline.fetch import fetched
from pipeline.options import Options
from pipeline.readback import run_records
from pipeline.source import rows_of

SAMPLE = 8  # images, from all over the catalog
ROW = 40  # bytes of an instance in the results beside its RLE, before compression


def estimate(options: Options, weights: Checkpoint, done: np.ndarray) -> dict[str, Any]:
    """Totals of the catalog, and a sample of its images done here, one by one.

    Args:
        done: int64, sorted ids of images that have their row.

    Returns:
        `images`, `left`, `bytes`, `unsized`, `kinds` as in `catalog.Totals`; `sample` (images, failed,
        seconds_per_image, instances_per_image, bytes_per_row, device, cores), or None if nothing is left;
        `seconds_here`, what all that is left would take this process; `last_rate`, images/s of the last run.
    """
    totals = catalog.totals(options.output, done)
    plan: dict[str, Any] = asdict(totals) | {"kinds": dict(totals.kinds), "sample": None, "seconds_here": None}
    rates = [r["images_per_second"] for r in run_records(options.output) if r.get("images_per_second")]
    plan["last_rate"] = rates[-1] if rates else None
    if totals.left:
        work = catalog.slices(options.output, done, 64, 32 << 20)
        network = load_model(weights, precision=options.precision, **options.overrides)
        sample = _sampled(options, network, work)
        plan |= {"sample": sample, "seconds_here": round(totals.left * sample["seconds_per_image"], 1)}
    return plan


def _sampled(options: Options, network: MaskRCNN, work: list[catalog.Slice]) -> dict[str, Any]:
    stops = np.cumsum([len(s.rows) for s in work])
    chosen = np.unique(np.linspace(0, stops[-1] - 1, SAMPLE).astype(int))
    network.predict([np.zeros((64, 64, 3), np.uint8)])  # the first one pays for what is made once
    began, size, instances, failed = time.monotonic(), 0, 0, 0
    for image in chosen:
        s = work[i := int(np.searchsorted(stops, image, side="right"))]
        at = image - (stops[i] - len(s.rows))
        try:
            counts = _counts(options, network, catalog.Slice(s.path, s.rows[at : at + 1]))
        except BadImageError:
            failed += 1
            continue
        instances += len(counts)
        size += sum(map(len, counts)) + ROW * len(counts)
    seconds = (time.monotonic() - began) / len(chosen)
    return {
        "images": len(chosen),
        "failed": failed,
        "seconds_per_image": round(seconds, 4),
        "instances_per_image": round(instances / len(chosen), 1),
        "bytes_per_row": round(size / len(chosen)),
        "device": str(network.device),
        "cores": min(torch.get_num_threads(), os.cpu_count() or 1),
    }


def _counts(options: Options, network: MaskRCNN, one: catalog.Slice) -> list[str]:
    """The RLEs of one image of the catalog."""
    rows = rows_of(options.output, one)
    (row,) = (row for table in fetched(rows, options.output.options) for row in table.to_pylist())
    if row["error"] is not None:
        raise BadImageError(row["error"])
    image = open_image(row["data"], options.pixel_limit)
    pixels = shrink(torch.from_numpy(to_rgb(image)), network.preset)
    found = network.predict([pixels], [(image.height, image.width)])[0]
    return rle.encode(found.masks, found.boxes, image.height, image.width, paste=network.preset.mask_paste)
