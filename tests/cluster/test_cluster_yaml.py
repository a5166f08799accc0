"""cluster.yaml is what Ray's cluster launcher accepts, and asks its autoscaler for the right machines."""

from __future__ import annotations

import re
from collections import Counter
from importlib.metadata import requires
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from support.raylets import ROOT

from pipeline.cluster.actor_pool import on_gpus


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    prepared = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    validate_config(prepared)
    return prepared


def launched(config: dict[str, Any], actors: int, tasks: int, failing: tuple[str, ...] = ()) -> Counter[str]:
    """The machines that Ray's autoscaler would start for a job's actors and tasks, by type."""
    wanted = on_gpus((1, actors), 1.0, 16)
    bundles = [{"GPU": wanted.num_gpus}] * actors + [{"CPU": wanted.task_cpus}] * tasks
    autoscaling = AutoscalingConfig(config, skip_content_hash=True)
    availability = {name: 0.0 if name in failing else 1.0 for name in config["available_node_types"]}
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=autoscaling.get_node_type_configs(),
        max_num_nodes=config["max_workers"],  # the head is not among them
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(b) for b in bundles]),
        cloud_resource_availabilities=availability,
        recoverable_resource_availabilities=availability,
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    return Counter({r.instance_type: r.count for r in reply.to_launch if r.instance_type != "head"})


def test_a_gpu_machine_an_actor_spot_first_and_on_demand_where_there_is_no_spot(config: dict[str, Any]) -> None:
    assert launched(config, actors=3, tasks=8) == {"gpu_spot": 3}
    assert launched(config, actors=3, tasks=8, failing=("gpu_spot",)) == {"gpu_on_demand": 3}
    assert launched(config, actors=20, tasks=0).total() == config["max_workers"] == 8


def test_the_head_does_no_work_and_is_closed(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    start = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "RAY_AUTH_MODE=token" in start
    assert "RAY_AUTH_MODE=token" in " ".join(config["worker_start_ray_commands"])
    assert any(path.endswith("/.ray/auth_token") for path in config["file_mounts"])


def test_machines_hold_roles_and_the_pinned_build(config: dict[str, Any]) -> None:
    for node_type in config["available_node_types"].values():
        assert node_type["node_config"]["IamInstanceProfile"]["Name"].startswith("maskfleet-")
    text = (ROOT / "cluster.yaml").read_text()
    assert "AWS_SECRET" not in text
    for command in config["setup_commands"] + config["head_setup_commands"]:
        assert "pip install" not in command or "--constraint ~/maskfleet/constraints.txt" in command
    for role in ("head", "worker"):
        assert "--object-store-memory=" in " ".join(config[f"{role}_start_ray_commands"])


def test_every_machine_starts_from_an_image_of_today(config: dict[str, Any]) -> None:
    """Ray gives a node type without one an Ubuntu whose C library torch's wheels do not run on."""
    types = config["available_node_types"].values()
    (image,) = {node_type["node_config"].get("ImageId") for node_type in types}
    assert image.startswith("resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-")
    version = re.search(r"-ubuntu-(\d\d)\.04/latest/ami-id$", image)
    assert version
    assert int(version[1]) >= 22


def test_the_autoscalers_client_shares_the_pinned_botocore() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert pinned["boto3"] == pinned["botocore"]  # AWS releases each boto3 with the botocore of its number
    asked = [Requirement(text) for text in requires("aiobotocore") or ()]
    assert all(pinned["botocore"] in r.specifier for r in asked if r.name == "botocore")
