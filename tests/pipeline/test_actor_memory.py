"""The actor's work where memory does not suffice: a process of its own under a real limit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, resource
import numpy as np, pyarrow as pa, ray
from model import read_checkpoint
from pipeline.decode import DECODED
from pipeline.casualties import Casualties
from pipeline.progress import Progress
from pipeline.segment import Network, Segment

ray.init("local", num_cpus=1, include_dashboard=False, logging_level="error", object_store_memory=100 << 20)
overrides = {"min_size": 6000, "max_size": 6000}  # a square becomes 6000x6000 for the network, a strip 48x6000
progress = Progress.start()
segment = Segment(Network(ray.put(read_checkpoint("nuclei")), overrides=overrides), 1, 4, progress, Casualties.start())

def row(number, height, width, error=None):
    pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8).tobytes()
    place = {"image_id": number, "uri": f"{number}.png", "width": width, "height": height, "error": error}
    return place | {"rows": height, "columns": width, "pixels": None if error else pixels}

rows = [row(0, 8, 1000), row(1, 900, 900), row(2, 8, 1000), row(3, 8, 1000), row(4, 1, 1, "NotAnImage: text")]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (700 << 20), resource.RLIM_INFINITY))
done = segment(pa.Table.from_pylist(rows, schema=DECODED)).to_pylist()
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps([{"id": d["image_id"], "error": d["error"], "found": d["scores"] is not None} for d in done]))
print(json.dumps(progress.read().batches))
"""


@pytest.mark.slow
def test_an_image_too_large_for_memory_is_an_error_row_alone() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows, batches = map(json.loads, done.stdout.splitlines()[-2:])
    assert [r["id"] for r in rows] == [0, 1, 2, 3, 4]
    assert [r["found"] for r in rows] == [True, False, True, True, False]
    assert [r["error"] for r in rows if r["id"] in (0, 2, 3)] == [None] * 3
    assert rows[1]["error"].startswith("SegmentError: ")
    assert "allocate memory" in rows[1]["error"]
    assert rows[4]["error"] == "NotAnImage: text"
    assert batches["images"] == 3
