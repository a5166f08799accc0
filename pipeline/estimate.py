"""Estimates a job before it runs: the size of its catalog, and its time from a sample of a few images."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
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
from pipeline.stages.source import read_slice
from pipeline.storage.original_bytes import fetch_images

SAMPLE_IMAGES = 8  # spread over the whole catalog
INSTANCE_BYTES = 40  # of an instance in the results without its RLE, before compression


def estimate(options: Options, weights: Checkpoint, dry_run: DryRun) -> dict[str, Any]:
    """Adds up the catalog, and segments a sample of the images to do in this process, one by one.

    Returns:
        `images`, `left`, `bytes`, `unsized` and `kinds` as in `catalog.CatalogTotals`; `to_do`, the images of `left`
        within `limit`; `set_aside`, the rows that would be set aside, and `set_aside_why`; `errors_retried`; `sample`
        (images, failed, seconds_per_image, instances_per_image, bytes_per_row, device, cores), or None if there is
        nothing to do; `seconds_here`, the time that `to_do` would take in this process; `last_rate`, images/s of the
        last run.
    """
    totals = catalog.totals(dry_run.catalog_root, dry_run.done)
    plan: dict[str, Any] = asdict(totals) | {"kinds": dict(totals.kinds), "sample": None, "seconds_here": None}
    plan |= {"set_aside": dry_run.rows if dry_run.conflict else 0, "set_aside_why": dry_run.conflict or None}
    plan["errors_retried"] = 0 if dry_run.conflict else dry_run.rows - len(dry_run.done)
    finished = [r for r in read_run_records(options.output) if not r.get("ended_by")]
    rates = [r["images_per_second"] for r in finished if r.get("images_per_second")]
    plan["last_rate"] = rates[-1] if rates else None
    work = first_images(unfinished_slices(dry_run.catalog_root, dry_run.done), options.limit)
    plan["to_do"] = sum(len(s.rows) for s in work)
    if work:
        device = "cpu" if options.gpus_per_worker == 0 else "auto"
        network = load_model(weights, precision=options.precision, device=device, **options.overrides)
        sample = _Sampler(options, network, dry_run).measure(work)
        plan |= {"sample": sample, "seconds_here": round(plan["to_do"] * sample["seconds_per_image"], 1)}
    return plan


@dataclass(frozen=True)
class _Sampler:
    """Segments single images of the catalog, without Ray."""

    options: Options
    network: MaskRCNN
    dry_run: DryRun

    def measure(self, work: list[Slice]) -> dict[str, Any]:
        """Segments a sample of the images; returns `sample` as in `estimate`."""
        stops = np.cumsum([len(s.rows) for s in work])
        chosen = np.unique(np.linspace(0, stops[-1] - 1, SAMPLE_IMAGES).astype(int))
        self.network.predict([np.zeros((64, 64, 3), np.uint8)])  # the first image would pay for one-time setup
        start, size, instances, failed = time.monotonic(), 0, 0, 0
        for image in chosen:
            s = work[i := int(np.searchsorted(stops, image, side="right"))]
            row = image - (stops[i] - len(s.rows))
            try:
                rles = self._segment(read_slice(self.dry_run.catalog_root, Slice(s.path, s.rows[row : row + 1])))
            except ImageError:
                failed += 1
                continue
            instances += len(rles)
            size += sum(map(len, rles)) + INSTANCE_BYTES * len(rles)
        seconds = (time.monotonic() - start) / len(chosen)
        return {
            "images": len(chosen),
            "failed": failed,
            "seconds_per_image": round(seconds, 4),
            "instances_per_image": round(instances / len(chosen), 1),
            "bytes_per_row": round(size / len(chosen)),
            "device": str(self.network.device),
            "cores": min(torch.get_num_threads(), os.cpu_count() or 1),
        }

    def _segment(self, catalog_row: pa.Table) -> list[str]:
        """The RLEs of one image."""
        options, network = self.options, self.network
        (row,) = (row for table in fetch_images(catalog_row, options.output.options) for row in table.to_pylist())
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
