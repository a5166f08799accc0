"""What Prometheus reads while a job runs, and that the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import parse
from support.fleet import ContinuedJob, totals
from support.raylets import ROOT

pytestmark = pytest.mark.slow
DASHBOARD = json.loads((ROOT / "deploy/grafana/maskfleet.json").read_text())


def test_counters_are_what_the_results_say(continued_job: ContinuedJob) -> None:
    rows, seen = continued_job.new_rows, continued_job.counted()
    assert seen["ray_maskfleet_images_total"] == len(rows) > 0
    assert seen["ray_maskfleet_instances_total"] == sum(len(row["score"] or ()) for row in rows) > 0
    kinds = Counter(row["error"].split(":")[0] for row in rows if row["error"])
    by_kind = continued_job.counted("kind")
    assert {k: by_kind[f"ray_maskfleet_errors_total/{k}"] for k in kinds} == kinds == {"EmptyFile": 1, "NotAnImage": 1}


def test_every_stage_and_batch_is_measured(continued_job: ContinuedJob) -> None:
    seen, stages, images = continued_job.counted(), continued_job.counted("stage"), len(continued_job.new_rows)
    for stage, passed in {"fetch": images, "decode": images, "segment": images - 2, "encode": images}.items():
        assert stages[f"ray_maskfleet_stage_images_total/{stage}"] == passed
        assert stages[f"ray_maskfleet_stage_busy_seconds_total/{stage}"] > 0
        assert stages[f"ray_maskfleet_stage_seconds_count/{stage}"] >= 1
    assert seen["ray_maskfleet_fetched_bytes_total"] > images * 1000
    assert seen["ray_maskfleet_batch_images_total"] == images - 2 <= seen["ray_maskfleet_batch_slots_total"]
    assert 0 < seen["ray_maskfleet_batch_pixels_total"] <= seen["ray_maskfleet_batch_input_pixels_total"]


def test_the_driver_says_what_is_left(continued_job: ContinuedJob) -> None:
    during = continued_job.during
    assert 0 <= totals(during)["ray_maskfleet_images_left"] <= len(continued_job.new_rows)
    waiting = {k.split("/")[1] for k in totals(during, "stage") if k.startswith("ray_maskfleet_images_waiting/")}
    assert waiting == {"decode", "segment", "encode"}


def test_the_dashboard_asks_for_what_there_is(continued_job: ContinuedJob) -> None:
    during, after = continued_job.during, continued_job.after
    names = {s.name for text in (during, after) for f in text_string_to_metric_families(text) for s in f.samples}
    queries = [t["expr"] for p in DASHBOARD["panels"] for t in p.get("targets", ())]
    assert len(queries) > 10
    used = set()
    for query in queries:
        parse(re.sub(r"\$__\w+", "1m", query))  # raises where it is no PromQL
        used |= set(re.findall(r"\bray_\w+", query))
    assert used <= names
    ours = {n for n in names if n.startswith("ray_maskfleet_") and not n.endswith(("_created", "_sum", "_count"))}
    assert ours <= used
