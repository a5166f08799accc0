"""The segment actor without enough memory, in a process with a real limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import ray

START = """
import json, os, resource, weakref
import numpy as np, ray, torch
from model import read_checkpoint
from pipeline.cluster.progress import Progress
from pipeline.stages.context import JobContext, Network
from pipeline.stages.quarantine import Quarantine
from pipeline.stages.rows import DecodedImage, SegmentedImage
from pipeline.stages.segment import Segment

ray.init(os.environ["RAY_ADDRESS"], logging_level="error", log_to_driver=False)
progress = Progress.start()

def actor(**overrides):
    checkpoint = read_checkpoint("nuclei")
    overrides |= {"rpn_post_nms": 50, "max_detections": 10}  # enough, and fast
    network, preset = Network(ray.put(checkpoint), overrides=overrides), checkpoint.preset.replace(**overrides)
    context = JobContext(network, preset, {}, {}, 10**9, progress, Quarantine.start())
    return Segment(context, "cpu", threads=1, batch_size=4)

def row(number, height, width, error=None):
    pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
    return DecodedImage(number, f"{number}.png", error, width, height, None if error else torch.from_numpy(pixels))

def errors(segment, rows):
    (table,) = segment(DecodedImage.to_table(rows))
    done = SegmentedImage.from_table(table)
    return [{"id": d.image_id, "error": d.error, "found": d.scores is not None} for d in done]
"""

LIMITED = """
segment = actor(min_size=3000, max_size=3000)  # a square becomes 3000x3000 for the network, a strip 32x3000
rows = [row(0, 8, 750), row(1, 900, 900), row(2, 8, 750), row(3, 8, 750), row(4, 1, 1, "NotAnImage: text")]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (250 << 20), resource.RLIM_INFINITY))
done = errors(segment, rows)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps([done, progress.read().batches]))
"""

WATCHED = """
segment = actor(min_size=128, max_size=128)
blank = []  # whether the image of each pass has one colour only

def watch(head, inputs):
    alive.append(sum(map() is not None for map in maps))
    maps.extend(weakref.ref(map) for map in inputs[0])
    if blank[-1]:
        ask()

segment.network.backbone.register_forward_pre_hook(lambda trunk, inputs: blank.append(inputs[0].float().std() < 1e-3))
segment.network.rpn["head"].register_forward_pre_hook(watch)
for ask in (lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda: np.empty(1 << 50, np.uint8)):
    maps, alive = [], []  # weak references to the maps of every pass; how many maps lived when each pass started
    rows = [row(0, 64, 128), row(1, 128, 128), row(2, 64, 128), row(3, 128, 64), row(4, 128, 128), row(5, 128, 128)]
    rows[1].pixels.fill_(255)
    print(json.dumps([errors(segment, rows), alive]))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def printed(local_ray: None) -> list[Any]:
    """What the process printed: under the limit, then for each way to ask for too much memory."""
    command = [sys.executable, "-c", START + LIMITED + WATCHED]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()[-3:]]


def test_only_the_image_that_is_too_large_for_memory_is_an_error_row(printed: list[Any]) -> None:
    rows, batches = printed[0]
    assert [r["id"] for r in rows] == [0, 1, 2, 3, 4]
    assert [r["found"] for r in rows] == [True, False, True, True, False]
    assert [r["error"] for r in rows if r["id"] in (0, 2, 3)] == [None] * 3
    assert rows[1]["error"].startswith("SegmentError: ")
    assert "allocate memory" in rows[1]["error"]
    assert rows[4]["error"] == "NotAnImage: text"
    assert batches["images"] == 3


@pytest.mark.parametrize("ask", [1, 2], ids=["torch", "numpy"])
def test_the_memory_of_a_failed_pass_is_free_when_its_parts_are_tried(printed: list[Any], ask: int) -> None:
    """A pass asks for more memory than there is, after it has made its feature maps.

    On a CPU each image of a batch is a separate pass, so the passes can be counted.
    """
    rows, alive = printed[ask]
    assert [r["found"] for r in rows] == [True, False, True, True, True, True]
    assert "allocate" in rows[1]["error"]
    window, batch, alone, rest = 2 + 1, 2 + 1, 1 + 1, 2 + 1  # up to the blank one; then a strip; the batch's others
    assert len(alive) == window + batch + alone + rest
    assert not any(alive)
