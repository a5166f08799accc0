"""Where the stages of a job run: actors on GPUs, light work on every node but the head, and how the pool breathes."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import placed
import pyarrow.dataset as pads
import pytest
from PIL import Image
from support.raylets import ROOT, Raylets

from pipeline.cluster.sizing import SHARE

pytestmark = pytest.mark.slow
SMALL = ("--set", "min_size=128", "--set", "max_size=1024", "--batch-size", "4")


def run(fleet: Raylets, name: str, folder: Path, *options: str) -> tuple[list[dict], list[int]]:
    """Submits a job on a folder of images; where its stages ran, and how many actors it had, second by second."""
    seen, output = folder.parent / f"{name}-placed", folder.parent / name
    seen.mkdir()
    variables = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/cluster'}", placed.FOLDER: str(seen)}
    environment = json.dumps({"env_vars": variables, "worker_process_setup_hook": "placed.hook"})
    command = ["python", "-m", "jobs.segment", str(folder), str(output), *SMALL, *options]
    fleet.job("submit", "--no-wait", "--submission-id", name, "--runtime-env-json", environment, "--", *command)
    actors: list[int] = []
    fleet.wait(lambda: actors.append(alive(fleet)) or fleet.status(name) not in ("PENDING", "RUNNING"), 240)
    assert fleet.status(name) == "SUCCEEDED", fleet.logs(name)
    images = len(list(folder.iterdir()))
    assert pads.dataset(str(output / "results"), format="parquet").count_rows() == images
    return placed.read(seen), actors


def pictures(nuclei: Path, folder: Path, count: int) -> Path:
    """A folder of small images, and of some at the end that take longer."""
    folder.mkdir()
    picture = Image.open(sorted(nuclei.iterdir())[0]).convert("RGB")
    for i in range(count):
        picture.crop((i % 100, i // 100, i % 100 + 64, i // 100 + 64)).save(folder / f"{i:03d}.png")
    for i in range(4):
        picture.resize((1024, 128)).save(folder / f"wide-{i}.png")
    return folder


@pytest.fixture(scope="module")
def names(fleet: Raylets) -> dict[str, str]:
    """The name of each node by its id."""
    kinds = {}
    for node in fleet.nodes():
        total = node["resources_total"]
        kinds[node["node_id"]] = "head" if not total.get("CPU") else "gpu" if total.get("GPU") else "cpu"
    assert sorted(kinds.values()) == ["cpu", "gpu", "head"]
    return kinds


def test_an_actor_a_gpu_light_work_everywhere_and_nothing_on_the_head(
    fleet: Raylets, names: dict[str, str], nuclei: Path, tmp_path: Path
) -> None:
    rows, counts = run(fleet, "placement", pictures(nuclei, tmp_path / "in", 800))
    where = {stage: {names[r["node"]] for r in rows if r["stage"] == stage} for stage in stages(rows)}
    assert where["segment"] == {"gpu"}
    assert where["decode"] == where["encode"] == {"gpu", "cpu"}  # a dozen tasks or more of each, which Ray spreads
    assert sorted(devices(rows).values()) == ["0", "1"]  # one actor a GPU, each its own
    assert max(counts) == 2, "actors were asked for beyond the GPUs of the cluster"


def test_halves_share_a_gpu_and_the_pool_grows_and_shrinks_with_the_work(
    fleet: Raylets, names: dict[str, str], nuclei: Path, tmp_path: Path
) -> None:
    options = ("--gpus-per-worker", "0.5", "--workers", "1,2")
    rows, counts = run(fleet, "halves", pictures(nuclei, tmp_path / "in", 400), *options)
    assert list(devices(rows).values()) == ["0", "0"]
    assert {names[r["node"]] for r in rows} == {"gpu", "cpu"}
    changes = [count for count, _ in groupby(counts)]
    assert max(counts) == 2
    assert "121" in "".join(map(str, changes))  # the second came for the queue, and one left while the other had work


def test_a_node_with_the_gpus_of_an_actor_is_waited_for(nuclei: Path, tmp_path: Path) -> None:
    """Two nodes of one GPU do not hold an actor of two; the job says so, and does its work when such a node comes.

    What Ray's autoscaler is asked for meanwhile ends with the job.
    """
    folder, output = pictures(nuclei, tmp_path / "in", 20), tmp_path / "out"
    command = ["python", "-m", "jobs.segment", str(folder), str(output), *SMALL, "--gpus-per-worker", "2"]
    environment = json.dumps({"env_vars": {"PYTHONPATH": str(ROOT)}})
    with Raylets() as raylets:
        for name in ("one", "another"):
            raylets.add(name, num_cpus=1, num_gpus=1)

        def begun(name: str, *options: str) -> None:
            submit = ("submit", "--no-wait", "--submission-id", name, "--runtime-env-json", environment, "--")
            raylets.job(*submit, *command, *options)
            raylets.wait(lambda: "waiting for a node that has 2 GPUs" in raylets.logs(name), 120)
            assert "the largest that is up has 1" in raylets.logs(name)

        begun("stopped", "--workers", "3")
        raylets.wait(lambda: "{'GPU': 2.0}: 3+ pending tasks/actors" in raylets.demand())
        raylets.job("stop", "stopped")
        raylets.wait(lambda: "no resource demands" in raylets.demand())
        begun("pair")
        raylets.wait(lambda: "{'GPU': 2.0}: 1+ pending tasks/actors" in raylets.demand())
        raylets.add("pair", num_cpus=1, num_gpus=2)
        assert raylets.ended("pair") == "SUCCEEDED", raylets.logs("pair")
    assert pads.dataset(str(output / "results"), format="parquet").count_rows() == 24


def test_a_cluster_that_scales_from_nothing_is_asked_for_the_nodes_and_windows_fit_their_memory(
    nuclei: Path, tmp_path: Path
) -> None:
    """As with cluster.yaml: no worker is up when the job starts, and Ray's autoscaler starts those it waits for."""
    folder, output = pictures(nuclei, tmp_path / "in", 296), tmp_path / "out"
    machine = {"resources": {"CPU": 1, "GPU": 1, "object_store_memory": 80_000_000}, "node_config": {}}
    with Raylets({"gpu": machine | {"max_workers": 2}}) as raylets:
        environment = json.dumps({"env_vars": {"PYTHONPATH": str(ROOT)}})
        command = ["python", "-m", "jobs.segment", str(folder), str(output), *SMALL, "--workers", "2"]
        raylets.job("submit", "--no-wait", "--submission-id", "zero", "--runtime-env-json", environment, "--", *command)
        assert raylets.ended("zero", 300) == "SUCCEEDED", raylets.logs("zero")
        assert "waiting for a node that has 1 GPU" in raylets.logs("zero")
    assert pads.dataset(str(output / "results"), format="parquet").count_rows() == 300
    (record,) = (json.loads(path.read_text()) for path in (output / "runs").iterdir())
    assert record["resources"]["pool"] == [2, 2]
    assert record["resources"]["window"] == 80_000_000 // (SHARE * 128 * 1024 * 3)


def alive(fleet: Raylets) -> int:
    """Segment actors that are there now; no other job runs."""
    return sum(a["state"] == "ALIVE" and "Segment" in a["class_name"] for a in fleet.state("actors"))


def devices(rows: list[dict]) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES of each actor that has segmented something."""
    return {r["actor"]: r["device"] for r in rows if r["stage"] == "segment"}


def stages(rows: list[dict]) -> set[str]:
    found = {r["stage"] for r in rows}
    assert found == {"fetch", "decode", "segment", "encode"}
    return found
