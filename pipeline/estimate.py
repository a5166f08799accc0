"""What a job would do: its catalog, its size, and how long it may take. Nothing is segmented but a few images."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model import Checkpoint, MaskRCNN, load_model, rle
from model.layers.transform import shrink
from model.masks.tile_merging import Instances, merge_tiles
from model.masks.tiles import predict_tiles
from pipeline.catalog import catalog
from pipeline.catalog.slices import Slice, first_images, unfinished_slices
from pipeline.images import ImageError, cropper, open_image, to_rgb
from pipeline.options import Options
from pipeline.output.reconciliation import DryRun
from pipeline.output.run_record import read_run_records
from pipeline.stages.source import rows_of
from pipeline.storage import Place
from pipeline.storage.original_bytes import fetch_images

SAMPLE = 8  # images, from all over the catalog
ROW = 40  # bytes of an instance in the results beside its RLE, before compression


def estimate(options: Options, weights: Checkpoint, trial: DryRun) -> dict[str, Any]:
    """Totals of the catalog, and a sample of the images to do done here, one by one.

    Returns:
        `images`, `left`, `bytes`, `unsized`, `kinds` as in `catalog.CatalogTotals`; `to_do`, those of `left` within
        `limit`; `set_aside`, the rows that would be put aside, and `set_aside_why`; `errors_retried`; `sample`
        (images, failed, seconds_per_image, instances_per_image, bytes_per_row, device, cores), or None if nothing
        is to do; `seconds_here`, what `to_do` would take this process; `last_rate`, images/s of the last run.
    """
    totals = catalog.totals(trial.catalog_root, trial.done)
    plan: dict[str, Any] = asdict(totals) | {"kinds": dict(totals.kinds), "sample": None, "seconds_here": None}
    plan |= {"set_aside": trial.rows if trial.conflict else 0, "set_aside_why": trial.conflict or None}
    plan["errors_retried"] = 0 if trial.conflict else trial.rows - len(trial.done)
    ended = [r for r in read_run_records(options.output) if not r.get("ended_by")]
    rates = [r["images_per_second"] for r in ended if r.get("images_per_second")]
    plan["last_rate"] = rates[-1] if rates else None
    work = first_images(unfinished_slices(trial.catalog_root, trial.done), options.limit)
    plan["to_do"] = sum(len(s.rows) for s in work)
    if work:
        device = "cpu" if options.gpus_per_worker == 0 else "auto"
        network = load_model(weights, precision=options.precision, device=device, **options.overrides)
        sample = _sampled(options, network, trial.catalog_root, work)
        plan |= {"sample": sample, "seconds_here": round(plan["to_do"] * sample["seconds_per_image"], 1)}
    return plan


def _sampled(options: Options, network: MaskRCNN, ledger: Place, work: list[Slice]) -> dict[str, Any]:
    stops = np.cumsum([len(s.rows) for s in work])
    chosen = np.unique(np.linspace(0, stops[-1] - 1, SAMPLE).astype(int))
    network.predict([np.zeros((64, 64, 3), np.uint8)])  # the first one pays for what is made once
    began, size, instances, failed = time.monotonic(), 0, 0, 0
    for image in chosen:
        s = work[i := int(np.searchsorted(stops, image, side="right"))]
        at = image - (stops[i] - len(s.rows))
        try:
            counts = _counts(options, network, rows_of(ledger, Slice(s.path, s.rows[at : at + 1])))
        except ImageError:
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


def _counts(options: Options, network: MaskRCNN, one: pa.Table) -> list[str]:
    """The RLEs of one image, of its row of the catalog."""
    (row,) = (row for table in fetch_images(one, options.output.options) for row in table.to_pylist())
    if row["error"] is not None:
        raise ImageError(row["error"])
    image, paste = open_image(row["data"], options.pixel_limit), network.preset.mask_paste
    height, width = image.height, image.width
    if options.tiling is None or not options.tiling.needed(height, width):
        pixels = shrink(torch.from_numpy(to_rgb(image)), network.preset)
        found = network.predict([pixels], [(height, width)])[0]
        return rle.encode(found.masks, found.boxes, height, width, paste=paste)
    tiles = options.tiling.grid(height, width)
    found, tile_of = predict_tiles(network.predict, cropper(image), tiles)
    counts, areas = rle.encode_with_area(found.masks, found.boxes, height, width, paste=paste)
    seen = Instances(found.boxes.numpy(), found.scores.numpy(), found.labels.numpy(), counts, areas)
    return merge_tiles(seen, tile_of.numpy(), tiles, height, width, network.preset.nms).counts
