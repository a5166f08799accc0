"""The metrics of a running job for Prometheus, through the endpoint that Ray has on every node.

Each process records what happens in it. Ray's core sends these values to its node's agent with its own metrics. On the
endpoint every name starts with `ray_`, and a counter's name ends with `_total`. See docs/metrics.md.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Mapping
from itertools import pairwise

from ray.util.metrics import Counter, Gauge, Histogram

# Bounds for the seconds of a block in a stage: from a few cached thumbnails to a window of large images.
SECONDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]

IMAGES = Counter("maskfleet_images", "Images through the network, or past it with an error.")
INSTANCES = Counter("maskfleet_instances", "Instances found in them.")
ERRORS = Counter("maskfleet_errors", "Images with an error, by kind: its text before the colon.", ("kind",))
FETCHED = Counter("maskfleet_fetched_bytes", "Bytes of images read from their stores.")
BLOCKS = Histogram("maskfleet_stage_seconds", "Seconds of a block in a stage.", SECONDS, ("stage",))
# Ray rounds the sum of a histogram to the middles of its buckets, so means are computed from these two.
BUSY = Counter("maskfleet_stage_busy_seconds", "Seconds of all blocks in a stage.", ("stage",))
PASSED = Counter("maskfleet_stage_images", "Images through a stage.", ("stage",))
BATCHES = {
    "images": Counter("maskfleet_batch_images", "Images in forward passes."),
    "slots": Counter("maskfleet_batch_slots", "Images that those forward passes had room for."),
    "pixels": Counter("maskfleet_batch_pixels", "Pixels of images as the network sees them."),
    "inputs": Counter("maskfleet_batch_input_pixels", "Pixels of the forward passes, padding included."),
}
LEFT = Gauge("maskfleet_images_left", "Images of this run that have no result yet.")
WAITING = Gauge(
    "maskfleet_images_waiting", "Images that have passed the stage before this one, and not this one.", ("stage",)
)
STAGES = ("fetch", "decode", "segment", "encode")


def stage(name: str, counts: Mapping[str, int], seconds: float) -> None:
    """Records a block of a stage: `counts` holds its "images", and "bytes" if it fetched any."""
    BLOCKS.observe(seconds, {"stage": name})
    _add(BUSY, seconds, {"stage": name})
    _add(PASSED, counts["images"], {"stage": name})
    _add(FETCHED, counts.get("bytes", 0))


def segmented(images: int, instances: int, errors: Mapping[str, int]) -> None:
    """Records images that have passed the segment stage; `errors` counts the failed ones by kind."""
    _add(IMAGES, images)
    _add(INSTANCES, instances)
    for kind, count in errors.items():
        _add(ERRORS, count, {"kind": kind})


def batches(counts: Mapping[str, int]) -> None:
    """Records images in forward passes, see `pipeline.observer.Totals.batches`."""
    for name, count in counts.items():
        _add(BATCHES[name], count)


def left(images: int, passed: Counts[str]) -> None:
    """Records what only the driver knows: images without a result, and images that wait for each stage."""
    LEFT.set(max(images, 0))
    for before, after in pairwise(STAGES):
        WAITING.set(max(passed[before] - passed[after], 0), {"stage": after})


def _add(counter: Counter, value: float, tags: dict[str, str] | None = None) -> None:
    if value > 0:  # Ray rejects zero
        counter.inc(value, tags or {})
