"""Images that crash their worker: in a task, in an actor, and in a whole job."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from PIL import Image
from ray.data import ActorPoolStrategy
from support.commands import results, segment

from pipeline.stages.quarantine import MAX_CRASHES, Quarantine, without_isolation

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test


class CrashingStage:
    """A stage whose process dies at some ids."""

    def __init__(self, quarantine: Quarantine, deadly: set[int]) -> None:
        self.quarantine, self.deadly = quarantine, deadly

    def __call__(self, batch: pa.Table) -> pa.Table:
        errors = []
        ids = batch["id"].to_pylist()
        with self.quarantine.batch("test", ids) as isolate:
            for image in ids:
                with (isolate or without_isolation)(image) as error:
                    if error is None and image in self.deadly:
                        os.kill(os.getpid(), signal.SIGKILL)
                    errors.append(error)
        return batch.append_column("error", pa.array(errors, pa.string()))


@pytest.mark.slow
@pytest.mark.parametrize(("where", "deadly"), [("task", {7, 8, 23}), ("actor", {7})])
def test_images_that_crash_are_errors_and_all_others_are_done(local_ray: None, where: str, deadly: set[int]) -> None:
    table = pa.table({"id": list(range(40))})
    dataset = ray.data.from_arrow([table.slice(i, 10) for i in range(0, 40, 10)])
    if where == "task":
        dataset = dataset.map_batches(
            CrashingStage(Quarantine.start(), deadly), batch_format="pyarrow", batch_size=None, num_cpus=1
        )
    else:
        dataset = dataset.map_batches(
            CrashingStage,
            fn_constructor_args=(Quarantine.start(), deadly),
            batch_format="pyarrow",
            batch_size=10,
            compute=ActorPoolStrategy(size=1),
        )
    rows = {row["id"]: row["error"] for row in dataset.take_all()}
    assert sorted(rows) == list(range(40))
    assert {i for i, error in rows.items() if error is not None} == deadly
    assert all(
        rows[i] == f"WorkerDied: its process died {MAX_CRASHES} times at this image alone (stage: test)" for i in deadly
    )


def test_in_a_job_it_is_an_error_row(local_ray: None, quick: tuple, plate: Path, tmp_path: Path) -> None:
    """The actor reads images that are larger than a tile; tasks read the others. See `support/site/faulty_decoder.py`.

    That the fetch stage isolates images as well: see test_original_bytes.
    """
    deadly = {"small.png": "decode", "wide.png": "segment"}
    for path in sorted(plate.iterdir())[2:]:
        path.unlink()
    Image.new("RGB", (61, 67)).save(plate / "small.png")
    Image.new("RGB", (161, 67)).save(plate / "wide.png")
    segment(plate, tmp_path / "out", "--tile", 128, *quick)
    rows = results(tmp_path / "out")
    assert len(rows) == len({r["uri"] for r in rows}) == 2 + len(deadly)
    for row in rows:
        if (name := Path(row["uri"]).name) in deadly:
            assert row["error"].startswith("WorkerDied: ")
            assert f"stage: {deadly[name]}" in row["error"]
        else:
            assert row["error"] is None
