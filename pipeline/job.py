"""The segmentation job from its options to its record, step by step."""

from __future__ import annotations

import json
import platform
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ray
import torch
from ray.data import DataContext
from ray.exceptions import RayError

from model import Checkpoint, read_checkpoint
from model.load import build, resolve_precision
from model.preset import Preset
from model.tiles import Tiling
from pipeline import catalog, checkpoint, cluster, inputs, plan
from pipeline.errors import InputError
from pipeline.kinds import IMAGE_SUFFIXES
from pipeline.progress import Progress, Totals
from pipeline.readback import counts, description
from pipeline.segment import Network
from pipeline.storage import Place, explain, public

SLICE_IMAGES, SLICE_BYTES = 64, 32 << 20  # of one read task
PARTS = 50  # results files of a run, at least: a restart repeats at most about that share of it
MAX_PIXELS, MAX_PIXELS_TILED = 200_000_000, 1_000_000_000  # 4 bytes each while an image is decoded
ROWS_PER_FILE = (32, 4096)


@dataclass(frozen=True)
class Options:
    """What a user asks for. `overrides` are fields of the checkpoint's preset (`min_score`, ...)."""

    inputs: tuple[Place, ...]
    output: Place
    weights: str = "nuclei"
    precision: str = "auto"
    overrides: dict[str, Any] = field(default_factory=dict)
    pattern: str | None = None
    column: str | None = None
    workers: tuple[int, int] | None = None
    gpus_per_worker: float = 1.0
    batch_size: int | None = None
    compiled: bool = False
    tiling: Tiling | None = None
    max_pixels: int | None = None
    limit: int | None = None


class Watcher:
    """Told how a job goes; does nothing. Commands show it."""

    def phase(self, text: str) -> None:
        """The job has come to a new step."""

    def reading(self, done: int, total: int) -> None:
        """Containers whose content is known, of those to read."""

    def totals(self, totals: Totals, left: int) -> None:
        """Counts while the plan runs; `left` images were owed at its start."""


def run(options: Options, watcher: Watcher) -> dict[str, Any]:
    """Segments what is not segmented yet and writes runs/<id>.json.

    Everything the user named is checked before Ray starts.

    Returns:
        The record of the run.

    Raises:
        InputError: an input, the output or an option cannot be used.
        WeightsError: the checkpoint cannot be read or does not fit.
    """
    began, started = time.monotonic(), datetime.now(UTC)
    watcher.phase(f"checking weights {options.weights}")
    weights = read_checkpoint(options.weights)
    preset = weights.preset.replace(**options.overrides)
    build(weights, preset)
    resolve_precision(options.precision, torch.device("cpu"), options.compiled)
    if too_large := [i for i in preset.category_ids if not 0 <= i < 1 << 15]:
        raise InputError(f"weights {options.weights}: category id {too_large[0]} is outside 0 to 32767")
    described = describe(weights, options)
    watcher.phase("listing inputs")
    found = inputs.containers(options.inputs, options.output, options.pattern, options.column)
    _check_output(options.output, described)
    run_id = started.strftime("%Y%m%dT%H%M%SZ-") + uuid.uuid4().hex[:6]
    with cluster.Connection() as ray_cluster:
        if checkpoint.needs_cleaning(options.output):
            watcher.phase("removing what a stopped run left half written")
            checkpoint.clean(ray_cluster.context(), options.output)
        done = checkpoint.done_ids(options.output)
        watcher.phase("cataloguing")
        total = catalog.update(
            options.output,
            found,
            done,
            pattern=options.pattern,
            column=options.column,
            options=options.output.options,
            report=watcher.reading,
        )
        if not total:
            raise InputError(f"the shards under the INPUTs hold no images; looked for {' '.join(IMAGE_SUFFIXES)}")
        record: dict[str, Any] = {"run": run_id, "started": started.isoformat(), "catalogued": total}
        work = limited(catalog.slices(options.output, done, SLICE_IMAGES, SLICE_BYTES), options.limit)
        left = sum(len(s.rows) for s in work)
        record |= {"images_before": len(done), "images_to_do": left}
        if work:
            watcher.phase("starting Ray")
            context = ray_cluster.context()
            watcher.phase(f"segmenting {left:,} images")
            record |= _segment(options, work, weights, preset, described, watcher, context)
    record |= asdict(counts(options.output)) | {"seconds": round(time.monotonic() - began, 1)}
    record |= {"options": _plain(options), "description": described, "versions": _versions()}
    options.output.join("runs", f"{record['run']}.json").put(json.dumps(record, indent=2).encode())
    return record


def _segment(
    options: Options,
    work: list[catalog.Slice],
    weights: Checkpoint,
    preset: Preset,
    described: dict[str, Any],
    watcher: Watcher,
    context: DataContext,
) -> dict[str, Any]:
    """Runs the plan on what is left; its speed and the seconds of its stages."""
    left, began = sum(len(s.rows) for s in work), time.monotonic()
    checkpoint.configure(context, options.output)
    network = Network(ray.put(weights), options.precision, options.compiled, options.tiling, options.overrides)
    rows = min(max(left // PARTS, ROWS_PER_FILE[0]), ROWS_PER_FILE[1])
    resources = cluster.resources(options.workers, options.gpus_per_worker, options.batch_size)
    progress = Progress.start()
    try:
        with _watched(progress, watcher, left):
            plan.execute(
                options.output, work, network, preset, described, resources, progress, max_pixels(options), rows
            )
    except RayError as error:
        raise _blame(error) from None
    return _measured(progress.read(), left, time.monotonic() - began)


def _blame(error: RayError) -> Exception:
    """The error of ours that a Ray error was raised for, which Ray keeps as text alone; else the Ray error."""
    found = re.findall(rf"^{InputError.__module__}\.{InputError.__name__}: (.*)$", str(error), re.MULTILINE)
    return InputError(found[-1]) if found else error


def describe(weights: Checkpoint, options: Options) -> dict[str, Any]:
    """What the metadata of every results file says: enough to interpret it and to refuse mixing."""
    preset = weights.preset.replace(**options.overrides)
    return {
        "weights": public(options.weights),
        "weights_sha256": weights.digest,
        "preset": json.loads(preset.to_json()),
        "precision": options.precision,
        "tiling": asdict(options.tiling) if options.tiling else None,
        "min_score": preset.min_score,
        "max_detections": preset.max_detections,
        "classes": dict(zip(map(str, preset.category_ids), preset.categories, strict=True)),
    }


def max_pixels(options: Options) -> int:
    """The limit on an image's pixels: what the user set, or what a decoded image may cost in memory."""
    if options.max_pixels is not None:
        return options.max_pixels
    return MAX_PIXELS_TILED if options.tiling else MAX_PIXELS


def limited(work: list[catalog.Slice], limit: int | None) -> list[catalog.Slice]:
    """The first `limit` images of the work; all of it without a limit."""
    if limit is None:
        return work
    chosen = []
    for s in work:
        if limit > 0:
            chosen.append(catalog.Slice(s.path, s.rows[:limit]))
        limit -= len(s.rows)
    return chosen


def _check_output(output: Place, described: dict[str, Any]) -> None:
    """Fails early where the output cannot be written, or holds results of another network."""
    try:
        output.join("runs", ".writable").put(b"")
        output.fs.rm_file(output.join("runs", ".writable").path)
        existing = description(output)
    except InputError:
        return  # no results yet, or only a file that was left half written
    except Exception as error:  # every store has errors of its own
        raise explain(output.url, error) from None
    keys = ("weights_sha256", "preset", "precision", "tiling")
    if different := [k for k in keys if existing and existing.get(k) != described[k]]:
        shown = "; ".join(_difference(k, existing.get(k), described[k]) for k in different)
        raise InputError(f"{output.url} holds results of other settings ({shown}): choose another OUTPUT")


def _difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        return ", ".join(f"{k} {old.get(k)} -> {v}" for k, v in new.items() if old.get(k) != v)
    return f"{key} {str(old)[:12]} -> {str(new)[:12]}"


@contextmanager
def _watched(progress: Progress, watcher: Watcher, left: int) -> Iterator[None]:
    """Tells the watcher the counts every second, from a thread of its own."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(1.0):
            watcher.totals(progress.read(), left)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if ray.is_initialized():
            watcher.totals(progress.read(), left)


def _measured(totals: Totals, images: int, seconds: float) -> dict[str, Any]:
    stages = {name: round(value, 2) for name, value in totals.seconds.items()}
    measured: dict[str, Any] = {"images_per_second": round(images / seconds, 3), "stage_seconds": stages}
    if totals.batches["slots"]:
        measured["batch_fill"] = round(totals.batches["images"] / totals.batches["slots"], 3)
        measured["padding_waste"] = round(1 - totals.batches["pixels"] / totals.batches["inputs"], 4)
    return measured


def _plain(options: Options) -> dict[str, Any]:
    """The options as JSON, without storage options: those may hold credentials."""
    plain = {k: v for k, v in vars(options).items() if k not in ("inputs", "output")}
    places = {"inputs": [public(p.url) for p in options.inputs], "output": public(options.output.url)}
    tiling = asdict(options.tiling) if options.tiling else None
    return plain | places | {"weights": public(options.weights), "tiling": tiling}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("maskfleet", "ray", "torch", "torchvision"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a working directory sent to a cluster is not installed
            found[package] = "not installed"
    return found
