"""What Prometheus reads while a job runs, and that the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
from collections import Counter

import pyarrow.dataset as pads
import pytest
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import parse
from support.fleet import ObservedJob, totals
from support.raylets import ROOT

pytestmark = pytest.mark.slow
DASHBOARD = json.loads((ROOT / "deploy/grafana/maskfleet.json").read_text())


def test_counters_are_what_the_results_say(observed_job: ObservedJob) -> None:
    output, after = observed_job.output, observed_job.after
    rows = pads.dataset(str(output / "results"), format="parquet").to_table(columns=["error", "score"]).to_pylist()
    seen = totals(after)
    assert seen["ray_maskfleet_images_total"] == len(rows) == 806
    assert seen["ray_maskfleet_instances_total"] == sum(len(r["score"] or ()) for r in rows)
    kinds = Counter(r["error"].split(":")[0] for r in rows if r["error"])
    by_kind = totals(after, "kind")
    assert {k: by_kind[f"ray_maskfleet_errors_total/{k}"] for k in kinds} == kinds == {"EmptyFile": 1, "NotAnImage": 1}


def test_every_stage_and_batch_is_measured(observed_job: ObservedJob) -> None:
    after = observed_job.after
    seen, stages = totals(after), totals(after, "stage")
    for stage, images in {"fetch": 806, "decode": 806, "segment": 804, "encode": 806}.items():
        assert stages[f"ray_maskfleet_stage_images_total/{stage}"] == images
        assert stages[f"ray_maskfleet_stage_busy_seconds_total/{stage}"] > 0
        assert stages[f"ray_maskfleet_stage_seconds_count/{stage}"] >= 1
    fetched = seen["ray_maskfleet_fetched_bytes_total"]
    assert fetched > 800 * 1000
    assert seen["ray_maskfleet_batch_images_total"] == 804 <= seen["ray_maskfleet_batch_slots_total"]
    assert 0 < seen["ray_maskfleet_batch_pixels_total"] <= seen["ray_maskfleet_batch_input_pixels_total"]


def test_the_driver_says_what_is_left(observed_job: ObservedJob) -> None:
    during = observed_job.during
    assert 0 <= totals(during)["ray_maskfleet_images_left"] <= 806
    waiting = {k.split("/")[1] for k in totals(during, "stage") if k.startswith("ray_maskfleet_images_waiting/")}
    assert waiting == {"decode", "segment", "encode"}


def test_the_dashboard_asks_for_what_there_is(observed_job: ObservedJob) -> None:
    during, after = observed_job.during, observed_job.after
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
