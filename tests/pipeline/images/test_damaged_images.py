"""300 damaged images: each gives pixels or a reason and one row, without a crash and within bounded memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import segment
from support.faults.check import assert_exact, rows_of
from support.faults.fuzz import damaged_images

from pipeline.storage import place

pytestmark = pytest.mark.slow
MAX_PIXELS = 20_000_000
MEMORY = 30 * MAX_PIXELS  # bytes beyond what the libraries take; 16-bit images need the most
REASON = re.compile(r"[A-Z][A-Za-z]+: \S.*")
SCRIPT = """
import json, resource, sys, time
from pathlib import Path
import numpy as np, torch
from model import read_checkpoint
from model.layers.transform import shrink
from pipeline.images import ImageError, cropper, open_image, to_rgb

preset, limit = read_checkpoint("nuclei").preset, int(sys.argv[2])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
start = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    outcome, began = {"name": path.name, "error": None, "shape": None, "crop": None}, time.perf_counter()
    print(json.dumps({"name": path.name, "begins": True}), flush=True)  # so that a crash has a name
    try:
        pixels = to_rgb(open_image(path.read_bytes(), limit))
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, pixels.shape
        outcome["shape"] = shrink(torch.from_numpy(pixels), preset).shape
    except ImageError as error:
        outcome["error"] = str(error)
    try:
        image = open_image(path.read_bytes(), limit)
        crop = cropper(image)((0, 0, min(image.width, 64), min(image.height, 64)))
        assert outcome["error"] or (crop == pixels[:64, :64]).all()
    except ImageError as error:
        outcome["crop"] = str(error)
    print(json.dumps(outcome | {"memory": peak() - start, "seconds": time.perf_counter() - began}), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, nuclei: Path, photos: Path) -> Path:
    """A folder with the damaged images."""
    folder = tmp_path_factory.mktemp("damaged")
    for name, data in damaged_images(nuclei, photos).items():
        (folder / name).write_bytes(data)
    assert len(list(folder.iterdir())) == 300
    return folder


@pytest.fixture(scope="module")
def decoded(folder: Path) -> dict[str, dict]:
    """The outcome of each image, decoded one after the other in one process."""
    command = [sys.executable, "-c", SCRIPT, str(folder), str(MAX_PIXELS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"status {done.returncode} at {lines[-1:]}\n{done.stderr[-3000:]}"
    return {line["name"]: line for line in lines if "begins" not in line}


def test_each_gives_pixels_or_a_reason(folder: Path, decoded: dict[str, dict]) -> None:
    assert sorted(decoded) == sorted(p.name for p in folder.iterdir())
    for name, outcome in decoded.items():
        assert (outcome["error"] is None) == (outcome["shape"] is not None), name
        for reason in filter(None, (outcome["error"], outcome["crop"])):
            assert REASON.fullmatch(reason), (name, reason)
    kinds = {outcome["error"].split(":")[0] for outcome in decoded.values() if outcome["error"]}
    assert kinds == {"DamagedImage", "NotAnImage", "TooManyPixels"}
    assert 50 < sum(outcome["error"] is None for outcome in decoded.values()) < 250


def test_memory_is_bounded_by_the_limit_of_pixels(decoded: dict[str, dict]) -> None:
    grown, before = {}, 0
    for name, outcome in decoded.items():
        if outcome["memory"] > before:
            grown[name], before = outcome["memory"] >> 20, outcome["memory"]
    assert before < MEMORY, f"MiB: {grown}"


def test_a_job_over_all_of_them_ends_with_a_row_each(
    local_ray: None, quick: tuple, folder: Path, decoded: dict[str, dict], tmp_path: Path
) -> None:
    output = place(tmp_path / "out")
    record = segment(folder, output.url, *quick, "--max-pixels", MAX_PIXELS)
    assert_exact(output, [str(p) for p in folder.iterdir()])
    rows = {Path(uri).name: row for uri, row in rows_of(output).items()}
    assert len(rows) == record["done"] == 300
    for name, row in rows.items():
        expected = decoded[name]["error"] if (folder / name).stat().st_size else "EmptyFile: 0 bytes"
        assert row["error"] == expected, name
        assert (row["score"] is None) == (row["error"] is not None), name
