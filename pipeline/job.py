"""The segmentation job from its options to its record, step by step."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import ray
import torch
from ray.data import DataContext

from model import Checkpoint, read_checkpoint
from model.inference.precision import resolve_precision
from model.load import build_network
from model.preset import Preset
from pipeline import plan
from pipeline.catalog.slices import Slice, first_images, unfinished_slices
from pipeline.cluster import connection, sizing
from pipeline.cluster.error_attribution import attributed
from pipeline.cluster.monitor import Allowance, monitored
from pipeline.cluster.progress import Progress
from pipeline.cluster.shutdown import ShutdownHandler
from pipeline.errors import InputError
from pipeline.estimate import estimate
from pipeline.observer import JobObserver
from pipeline.options import Options
from pipeline.output import checkpoint, reconciliation
from pipeline.output.counts import counts
from pipeline.output.description import describe
from pipeline.output.lease import Lease
from pipeline.output.run_record import RunTotals, package_versions, record_run, run_statistics
from pipeline.stages.quarantine import Quarantine
from pipeline.stages.segment import Network
from pipeline.storage import place

__all__ = ["JobObserver", "Options", "plan_of", "run"]

PARTS = 50  # results files of a run, at least: a restart repeats at most about that share of it
ROWS_PER_FILE = (32, 4096)
SEED = 0  # of the order of slices: what is begun first is a fair sample, see `monitor.exceeds_error_rate`
ROUNDS = 3  # of the plan: what machines that died have lost is done again


def run(options: Options, observer: JobObserver) -> dict[str, Any]:
    """Segments what is not segmented yet and writes runs/<id>.json.

    What the user named is checked before Ray starts, and before anything that is there is changed. When the plan
    has ended, the results are held against the catalog: images without a row are done again, and of doubled rows
    one stays. So that each has exactly one rests on what lies in storage and on nothing that a process remembers.

    Returns:
        The record of the run.

    Raises:
        InputError: an input, the output or an option cannot be used.
        WeightsError: the checkpoint cannot be read or does not fit.
        TooManyErrorsError: more images fail than `max_error_rate` allows.
    """
    observer.phase(f"checking weights {options.weights}")
    weights, preset = _checked(options)
    try:
        return _run(options, weights, preset, observer)
    except Exception as error:
        if (blame := attributed(error, options.output)) is error:
            raise
        raise blame from None


def _run(options: Options, weights: Checkpoint, preset: Preset, observer: JobObserver) -> dict[str, Any]:
    started, output, described = datetime.now(UTC), options.output, describe(weights, options)
    run_id = started.strftime("%Y%m%dT%H%M%SZ-") + uuid.uuid4().hex[:6]
    record: dict[str, Any] = {"run": run_id, "started": started.isoformat(), "images_to_do": 0}
    record |= {"options": options.plain(), "description": described, "versions": package_versions()}
    spent = RunTotals()
    with (
        ShutdownHandler() as shutdown,
        Lease(output, run_id, shutdown.stop, observer.phase) as lease,
        connection.Connection() as ray_cluster,
    ):
        done = reconciliation.prepare_output(options, described, run_id, record, observer)
        record["images_before"] = len(done)
        with record_run(output, record, observer, lambda: shutdown.reason):
            for round_ in range(ROUNDS):
                work = first_images(unfinished_slices(output, done), options.limit)
                if not (left := sum(len(s.rows) for s in work)):
                    break
                observer.phase("starting Ray" if not round_ else "doing again what was lost on the way")
                context = ray_cluster.context()
                shutdown.arm()
                record["images_to_do"] += left
                random.Random(SEED).shuffle(work)
                try:
                    _segment(options, work, weights, preset, described, observer, context, lease, shutdown, spent)
                finally:
                    record |= run_statistics(spent)
                done = reconciliation.reconcile(output, record)
                if options.limit is not None:
                    break
            record |= asdict(counts(output))
            if record["left"] and options.limit is None:
                raise InputError(
                    f"{output.url}: {record['left']:,} images have no row yet: start the same command again"
                )
    return record


def plan_of(options: Options, observer: JobObserver) -> dict[str, Any]:
    """Says what `run` would do and leaves the output as it is; segments nothing but a sample. See `pipeline.estimate`.

    Raises:
        InputError: an input, the output or an option cannot be used.
        WeightsError: the checkpoint cannot be read or does not fit.
    """
    observer.phase(f"checking weights {options.weights}")
    weights, _ = _checked(options)
    with ShutdownHandler(), reconciliation.dry_run(options, describe(weights, options), observer) as trial:
        observer.phase("trying a few images")
        return estimate(options, weights, trial)


def _checked(options: Options) -> tuple[Checkpoint, Preset]:
    """The weights and their preset, known to fit each other and what can be stored."""
    weights = read_checkpoint(options.weights, place(options.weights, options.output.options).storage_options)
    preset = weights.preset.replace(**options.overrides)
    build_network(weights, preset)
    resolve_precision(options.precision, torch.device("cpu"), options.compiled)
    if too_large := [i for i in preset.category_ids if not 0 <= i < 1 << 15]:
        raise InputError(f"weights {options.weights}: category id {too_large[0]} is outside 0 to 32767")
    return weights, preset


def _segment(
    options: Options,
    work: list[Slice],
    weights: Checkpoint,
    preset: Preset,
    described: dict[str, Any],
    observer: JobObserver,
    context: DataContext,
    lease: Lease,
    shutdown: ShutdownHandler,
    spent: RunTotals,
) -> None:
    """Runs the plan on what is left, and adds to what was spent, also where it is cut short."""
    left = sum(len(s.rows) for s in work)
    checkpoint.configure(context, options.output)
    network = Network(
        ray.put(weights), options.precision, options.compiled, options.tiling, options.nvjpeg, options.overrides
    )
    rows = min(max(left // PARTS, ROWS_PER_FILE[0]), ROWS_PER_FILE[1])
    share, image_bytes = options.max_error_rate, 3 * preset.min_size * preset.max_size
    if options.tiling or options.nvjpeg:  # images reach an actor as they are stored
        image_bytes = max(image_bytes, sum(s.bytes for s in work) // left)
    allowance = None if share is None else Allowance.of(share, counts(options.output), work)  # before GPUs are paid for
    resources = sizing.resources(
        options.workers, options.gpus_per_worker, options.batch_size, observer.phase, left, image_bytes
    )
    spent.resources, began = resources.plain(), time.monotonic()
    observer.phase(f"segmenting {left:,} images")
    progress, quarantine = Progress.start(), Quarantine.start()
    ended = False
    try:
        with monitored(progress, observer, left, allowance, lease.set_progress, shutdown.stop):
            plan.execute(
                options.output,
                work,
                network,
                preset,
                described,
                resources,
                progress,
                quarantine,
                options.pixel_limit,
                rows,
            )
        ended = True
    finally:
        totals = progress.last
        spent.add(totals, left if ended else min(totals.images, left), time.monotonic() - began)
