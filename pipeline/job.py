"""The segmentation job, step by step, from its options to its record."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import ray
import torch

from model import Checkpoint, read_checkpoint
from model.inference.precision import resolve_precision
from model.load import build_network
from model.preset import Preset
from pipeline import plan
from pipeline.catalog.slices import Slice, first_images, unfinished_slices
from pipeline.cluster import sizing
from pipeline.cluster.connection import Connection
from pipeline.cluster.error_attribution import attribute_error
from pipeline.cluster.monitor import ErrorBudget, monitored
from pipeline.cluster.progress import Progress
from pipeline.cluster.shutdown import ShutdownHandler
from pipeline.errors import InputError
from pipeline.estimate import estimate
from pipeline.observer import JobObserver, Totals
from pipeline.options import Options
from pipeline.output import checkpoint, reconciliation
from pipeline.output.counts import counts
from pipeline.output.description import describe
from pipeline.output.lease import Lease
from pipeline.output.run_record import RunTotals, package_versions, record_run, run_statistics
from pipeline.stages.context import JobContext, Network
from pipeline.stages.quarantine import Quarantine
from pipeline.storage import place

__all__ = ["JobObserver", "Options", "preview", "run"]

SEED = 0  # shuffles the slices, so that the first ones are a random sample; see `monitor.exceeds_error_rate`
MAX_PLANS = 3  # of a run; each plan after the first repeats the images that were lost with dead machines


@dataclass(frozen=True)
class Job:
    """A job whose weights and options have been checked.

    Attributes:
        preset: the checkpoint's preset with the user's overrides.
    """

    options: Options
    checkpoint: Checkpoint
    preset: Preset
    observer: JobObserver

    @property
    def description(self) -> dict[str, Any]:
        """The metadata of every results file."""
        return describe(self.checkpoint, self.options)


def run(options: Options, observer: JobObserver) -> dict[str, Any]:
    """Segments the images that have no result yet and writes runs/<id>.json.

    Everything the user named is checked before Ray starts. Until then the output changes only by its lease and by the
    removal of partial files and duplicate rows. After the plan, the job compares results and catalog: images without a
    row are segmented again, and of duplicate rows one stays. So the guarantee of exactly one row for each image is
    derived from storage alone, never from the state of a process.

    Returns:
        The record of the run.

    Raises:
        InputError: an input, the output or an option cannot be used.
        WeightsError: the checkpoint cannot be read or does not fit.
        TooManyErrorsError: more images fail than `max_error_rate` allows.
    """
    job = _load_job(options, observer)
    try:
        return _run(job)
    except Exception as error:
        if (attributed := attribute_error(error, options.output)) is error:
            raise
        raise attributed from None


def preview(options: Options, observer: JobObserver) -> dict[str, Any]:
    """Reports what `run` would do, see `pipeline.estimate`. It segments a small sample and changes nothing.

    Raises:
        InputError: an input, the output or an option cannot be used.
        WeightsError: the checkpoint cannot be read or does not fit.
    """
    job = _load_job(options, observer)
    with ShutdownHandler(), reconciliation.dry_run(options, job.description, observer) as dry_run:
        observer.phase("trying a few images")
        return estimate(options, job.checkpoint, dry_run)


def _load_job(options: Options, observer: JobObserver) -> Job:
    """Reads the checkpoint. Checks that it fits the preset and the precision, and that its categories can be stored."""
    observer.phase(f"checking weights {options.weights}")
    weights = read_checkpoint(options.weights, place(options.weights, options.output.options).storage_options)
    preset = weights.preset.replace(**options.overrides)
    build_network(weights, preset)  # only for the error: the weights must fit the preset
    # Also for the error. The driver may have no GPU, so it checks what does not depend on one.
    resolve_precision(options.precision, torch.device("cpu"), options.compiled)
    if too_large := [i for i in preset.category_ids if not 0 <= i < 1 << 15]:
        raise InputError(f"weights {options.weights}: category id {too_large[0]} is outside 0 to 32767")
    return Job(options, weights, preset, observer)


def _run(job: Job) -> dict[str, Any]:
    options, output, observer = job.options, job.options.output, job.observer
    record = _new_record(job)
    run_totals = RunTotals()
    with (
        ShutdownHandler() as shutdown,
        Lease(output, record["run"], shutdown.stop, observer.phase) as lease,
        Connection() as ray_cluster,
    ):
        done = reconciliation.prepare_output(options, job.description, record, observer)
        record["images_before"] = len(done)
        with record_run(output, record, observer, lambda: shutdown.reason):
            for attempt in range(MAX_PLANS):
                work = first_images(unfinished_slices(output, done), options.limit)
                if not work:
                    break
                observer.phase("repeating what was lost" if attempt else "starting Ray")
                checkpoint.configure(ray_cluster.context(), output)
                shutdown.arm()
                record["images_to_do"] += _images(work)
                try:
                    _segment(job, work, lease, shutdown, run_totals)
                finally:
                    record |= run_statistics(run_totals)
                done = reconciliation.clean_results(output, record)
                if options.limit is not None:
                    break
            record |= asdict(counts(output))
            if record["left"] and options.limit is None:
                raise InputError(
                    f"{output.url}: {record['left']:,} images have no row yet: start the same command again"
                )
    return record


def _new_record(job: Job) -> dict[str, Any]:
    started = datetime.now(UTC)
    return {
        "run": started.strftime("%Y%m%dT%H%M%SZ-") + uuid.uuid4().hex[:6],
        "started": started.isoformat(),
        "images_to_do": 0,
        "options": job.options.plain(),
        "description": job.description,
        "versions": package_versions(),
    }


def _segment(job: Job, work: list[Slice], lease: Lease, shutdown: ShutdownHandler, run_totals: RunTotals) -> None:
    """Runs one plan, and adds its cost to `run_totals` even if it is cut short."""
    options, observer, images = job.options, job.observer, _images(work)
    random.Random(SEED).shuffle(work)
    budget = None  # existing rows are counted here, because the next step may start GPUs that cost money
    if options.max_error_rate is not None:
        budget = ErrorBudget.of(options.max_error_rate, counts(options.output), work)
    request = sizing.PoolRequest(options.workers, options.gpus_per_worker, options.batch_size)
    resources = sizing.resources(request, images, _image_bytes(job, work), observer.phase)
    context = _context(job)
    run_totals.resources, start = resources.plain(), time.monotonic()
    observer.phase(f"segmenting {images:,} images")

    def report(totals: Totals, rate: float) -> None:
        observer.totals(totals, images)
        done = min(totals.images, images)  # images that were lost with a machine are counted twice
        failed, rate = totals.errors.total(), round(rate, 2)
        lease.set_progress(images=done, images_to_do=images, failed=failed, images_per_second=rate)

    finished = False
    try:
        with monitored(context.progress, report, budget, shutdown.stop):
            plan.execute(options.output, work, context, resources)
        finished = True
    finally:
        totals = context.progress.last
        run_totals.add(totals, images if finished else min(totals.images, images), time.monotonic() - start)


def _context(job: Job) -> JobContext:
    """What the stages know. Starts the actors that count progress and keep the quarantine."""
    options = job.options
    return JobContext(
        network=Network(ray.put(job.checkpoint), options.precision, options.compiled, options.overrides),
        preset=job.preset,
        description=job.description,
        storage_options=options.output.options,
        pixel_limit=options.pixel_limit,
        progress=Progress.start(),
        quarantine=Quarantine.start(),
        tiling=options.tiling,
        nvjpeg=options.nvjpeg,
    )


def _images(work: list[Slice]) -> int:
    return sum(len(s.rows) for s in work)


def _image_bytes(job: Job, work: list[Slice]) -> int:
    """An upper estimate of the bytes of an image in an actor's window.

    It is the decoded image or, if actors decode some images themselves, the mean file size if that is larger.
    """
    decoded = 3 * job.preset.min_size * job.preset.max_size
    if job.options.tiling or job.options.nvjpeg:
        return max(decoded, sum(s.bytes for s in work) // _images(work))
    return decoded
