"""The RayJob and its image: fields that were looked up, sizes that fit each other, the pinned build."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from support.raylets import ROOT

from jobs.main import app

# Typed by hand: those fields of RayJob and RayCluster, ray.io/v1, that we use.
JOB = {"entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
JOB |= {"rayClusterSpec"}
CLUSTER = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec"}
CLUSTER |= {"workerGroupSpecs"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "kuberay/rayjob.yaml").read_text())
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayJob")
    return document["spec"]


def test_fields_are_those_that_were_looked_up(job: dict[str, Any]) -> None:
    cluster = job["rayClusterSpec"]
    assert set(job) <= JOB
    assert set(cluster) <= CLUSTER
    assert set(cluster["headGroupSpec"]) <= {"rayStartParams", "template"}
    for group in cluster["workerGroupSpecs"]:
        assert set(group) == GROUP
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"] == {"mode": "token"}


def test_gpus_are_the_workers_and_the_head_does_no_work(job: dict[str, Any]) -> None:
    cluster = job["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in container(cluster["headGroupSpec"])["resources"]["limits"]
    (group,) = cluster["workerGroupSpecs"]
    limits = container(group)["resources"]["limits"]
    assert limits == container(group)["resources"]["requests"]
    assert limits["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("role", ["head", "worker"])
def test_the_object_store_has_a_memory_volume_that_fits_the_pod(job: dict[str, Any], role: str) -> None:
    cluster = job["rayClusterSpec"]
    group = cluster["headGroupSpec"] if role == "head" else cluster["workerGroupSpecs"][0]
    (shm,) = group["template"]["spec"]["volumes"]
    assert shm["emptyDir"]["medium"] == "Memory"
    store, memory = (
        int(group["rayStartParams"]["object-store-memory"]),
        container(group)["resources"]["limits"]["memory"],
    )
    assert store < gibibytes(shm["emptyDir"]["sizeLimit"]) < gibibytes(memory)
    mounts = [m["mountPath"] for m in container(group)["volumeMounts"] if m["name"] == shm["name"]]
    assert mounts == ["/dev/shm"]


def test_the_entrypoint_is_a_command_of_ours(job: dict[str, Any]) -> None:
    program, command, *arguments = shlex.split(job["entrypoint"])
    assert program == "maskfleet"
    main = typer.main.get_command(app)
    segment = main.get_command(typer.Context(main), command)  # type: ignore[attr-defined]
    parsed = segment.make_context("segment", list(arguments)).params
    assert parsed["workers"] == f"1,{job['rayClusterSpec']['workerGroupSpecs'][0]['maxReplicas']}"


def test_the_image_is_the_pinned_build_without_root() -> None:
    lines = (ROOT / "Dockerfile").read_text()
    copied = {name for sources in re.findall(r"^COPY (.*) \S+$", lines, re.MULTILINE) for name in sources.split()}
    assert copied == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "model", "pipeline", "jobs"}
    assert all((ROOT / name).exists() for name in copied)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == copied
    assert re.search(r"^RUN pip install .*--constraint constraints.txt \.$", lines, re.MULTILINE)
    assert re.search(r"^USER 1000$", lines, re.MULTILINE)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint, "pip install 'maskfleet[dev]'"
    done = subprocess.run([hadolint, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def container(group: dict[str, Any]) -> dict[str, Any]:
    (only,) = group["template"]["spec"]["containers"]
    return only


def gibibytes(text: str) -> int:
    assert text.endswith("Gi")
    return int(text[:-2]) << 30
