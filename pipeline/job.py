"""The segmentation job from its options to its record, step by step."""

from __future__ import annotations

import json
import re
import time
import uuid
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import ray
import torch
from ray.data import DataContext
from ray.exceptions import RayError

from model import Checkpoint, read_checkpoint
from model.load import build, resolve_precision
from model.preset import Preset
from pipeline import catalog, checkpoint, cluster, inputs, plan, results, sizing
from pipeline.casualties import Casualties
from pipeline.errors import InputError
from pipeline.estimate import estimate
from pipeline.kinds import IMAGE_SUFFIXES
from pipeline.lease import Lease
from pipeline.options import Options, Watcher, describe, difference
from pipeline.progress import Progress
from pipeline.readback import counts, description
from pipeline.record import measured, versions
from pipeline.segment import Network
from pipeline.stopping import Stopper
from pipeline.storage import Place, explain
from pipeline.watching import watched

__all__ = ["Options", "Watcher", "plan_of", "run"]

SLICE_IMAGES, SLICE_BYTES = 64, 32 << 20  # of one read task
PARTS = 50  # results files of a run, at least: a restart repeats at most about that share of it
ROWS_PER_FILE = (32, 4096)
CLIENTS = {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs"}  # packages that talk to stores
ROUNDS = 3  # of the plan: what machines that died have lost is done again


def run(options: Options, watcher: Watcher) -> dict[str, Any]:
    """Segments what is not segmented yet and writes runs/<id>.json.

    What the user named is checked before Ray starts. When the plan has ended, the results are held against
    the catalog: images without a row are done again, and of doubled rows one stays. So that each has exactly one
    rests on what lies in storage and on nothing that a process remembers.

    Returns:
        The record of the run.

    Raises:
        InputError: an input, the output or an option cannot be used.
        WeightsError: the checkpoint cannot be read or does not fit.
        TooManyErrorsError: more images fail than `max_error_rate` allows.
    """
    watcher.phase(f"checking weights {options.weights}")
    weights, preset = _checked(options)
    try:
        return _run(options, weights, preset, watcher)
    except Exception as error:
        if _of_store(error):  # inputs explain theirs, so this is the output's
            raise explain(options.output.url, error) from None
        raise


def _run(options: Options, weights: Checkpoint, preset: Preset, watcher: Watcher) -> dict[str, Any]:
    began, started = time.monotonic(), datetime.now(UTC)
    described = describe(weights, options)
    output = options.output
    run_id = started.strftime("%Y%m%dT%H%M%SZ-") + uuid.uuid4().hex[:6]
    record: dict[str, Any] = {"run": run_id, "started": started.isoformat(), "images_to_do": 0}
    with (
        Stopper() as stopper,
        Lease(output, run_id, stopper.stop, watcher.phase) as lease,
        cluster.Connection() as ray_cluster,
    ):
        record |= _prepared(options, described, run_id, watcher)
        done = _settled(output, record)
        record |= {"images_before": len(done), "catalogued": _catalogued(options, done, watcher)}
        for round_ in range(ROUNDS):
            work = limited(catalog.slices(output, done, SLICE_IMAGES, SLICE_BYTES), options.limit)
            if not (left := sum(len(s.rows) for s in work)):
                break
            watcher.phase("starting Ray" if not round_ else "doing again what was lost on the way")
            context = ray_cluster.context()
            stopper.arm()
            figures = _segment(options, work, weights, preset, described, watcher, context, lease, stopper)
            record |= figures if not round_ else {}
            record["images_to_do"] += left
            done = _settled(output, record)
            if options.limit is not None:
                break
        record |= asdict(counts(output)) | {"seconds": round(time.monotonic() - began, 1)}
        record |= {"options": options.plain(), "description": described, "versions": versions()}
        output.join("runs", f"{run_id}.json").put(json.dumps(record, indent=2).encode())
    if record["left"] and options.limit is None:
        raise InputError(f"{output.url}: {record['left']:,} images have no row yet: start the same command again")
    return record


def plan_of(options: Options, watcher: Watcher) -> dict[str, Any]:
    """Catalogues and says what `run` would do; segments nothing but a sample. See `pipeline.estimate`.

    Raises:
        InputError: an input, the output or an option cannot be used.
        WeightsError: the checkpoint cannot be read or does not fit.
    """
    watcher.phase(f"checking weights {options.weights}")
    weights, _ = _checked(options)
    with Stopper() as stopper, Lease(options.output, "plan", stopper.stop, watcher.phase):
        _prepared(replace(options, overwrite=False, retry_errors=False), describe(weights, options), "", watcher)
        done = results.done_ids(options.output)
        _catalogued(options, done, watcher)
        watcher.phase("trying a few images")
        return estimate(options, weights, done)


def _checked(options: Options) -> tuple[Checkpoint, Preset]:
    """The weights and their preset, known to fit each other and what can be stored."""
    weights = read_checkpoint(options.weights)
    preset = weights.preset.replace(**options.overrides)
    build(weights, preset)
    resolve_precision(options.precision, torch.device("cpu"), options.compiled)
    if too_large := [i for i in preset.category_ids if not 0 <= i < 1 << 15]:
        raise InputError(f"weights {options.weights}: category id {too_large[0]} is outside 0 to 32767")
    return weights, preset


def _prepared(options: Options, described: dict[str, Any], run_id: str, watcher: Watcher) -> dict[str, Any]:
    """Readies the results that are there: whole files, of these settings, without the errors to try again.

    Returns:
        What was changed, for the record.

    Raises:
        InputError: they are of other settings, and it was not asked or not confirmed to put them aside.
    """
    output, changed = options.output, dict[str, Any]()
    try:
        if results.clean(output):
            watcher.phase("removed what a stopped run left half written")
        existing = _description(output)
        if existing and (different := difference(existing, described)):
            told = f"{output.url} holds results of other settings ({different})"
            if not options.overwrite:
                raise InputError(f"{told}: choose another OUTPUT, or put them aside with --overwrite")
            if not watcher.confirm(f"{told}. Move them to {output.join('replaced', run_id).url} and begin anew?"):
                raise InputError(f"{output.url}: nothing was changed")
            watcher.phase(f"moving the results that are there to replaced/{run_id}")
            changed["files_set_aside"] = results.set_aside(output, run_id)
        if options.retry_errors:
            changed["errors_retried"] = results.drop_errors(output)
    except InputError:
        raise
    except Exception as error:  # every store has errors of its own
        raise explain(output.url, error) from None
    return changed


def _description(output: Place) -> dict[str, Any] | None:
    try:
        return description(output)
    except InputError:  # no results yet
        return None


def _catalogued(options: Options, done: np.ndarray, watcher: Watcher) -> int:
    """Brings the catalog up to date with the inputs; the images in it."""
    watcher.phase("listing inputs")
    found = inputs.containers(options.inputs, options.output, options.pattern, options.column)
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
    return total


def _segment(
    options: Options,
    work: list[catalog.Slice],
    weights: Checkpoint,
    preset: Preset,
    described: dict[str, Any],
    watcher: Watcher,
    context: DataContext,
    lease: Lease,
    stopper: Stopper,
) -> dict[str, Any]:
    """Runs the plan on what is left; its speed and the figures of its stages."""
    left, began = sum(len(s.rows) for s in work), time.monotonic()
    checkpoint.configure(context, options.output)
    network = Network(
        ray.put(weights), options.precision, options.compiled, options.tiling, options.nvjpeg, options.overrides
    )
    rows = min(max(left // PARTS, ROWS_PER_FILE[0]), ROWS_PER_FILE[1])
    resources = sizing.resources(options.workers, options.gpus_per_worker, options.batch_size, watcher.phase)
    watcher.phase(f"segmenting {left:,} images")
    progress, casualties = Progress.start(), Casualties.start()
    try:
        with watched(progress, watcher, left, options.max_error_rate, lease.say, stopper.stop):
            plan.execute(
                options.output,
                work,
                network,
                preset,
                described,
                resources,
                progress,
                casualties,
                options.pixel_limit,
                rows,
            )
    except RayError as error:
        raise _blame(error, options.output) from None
    return measured(progress.read(), left, time.monotonic() - began)


def _blame(error: RayError, output: Place) -> Exception:
    """The error that a Ray error was raised for: one of ours, which Ray keeps as text alone, or the output's store's.

    What goes wrong with inputs comes as ours or as a row, so any other of a store is of the output.
    """
    if found := re.findall(rf"^{InputError.__module__}\.{InputError.__name__}: (.*)$", str(error), re.MULTILINE):
        return InputError(found[-1])
    cause: Exception = getattr(error, "cause", None) or error
    return explain(output.url, cause) if _of_store(cause) else error


def _of_store(error: BaseException) -> bool:
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in CLIENTS


def _settled(output: Place, record: dict[str, Any]) -> np.ndarray:
    """The images that have their row, each exactly one."""
    results.clean(output)
    done = results.done_ids(output)
    if doubles := results.remove_doubles(output, done):
        record["doubles_removed"] = record.get("doubles_removed", 0) + doubles
        done = np.unique(done)
    return done


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
