"""What Prometheus reads while a job runs, and that the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import parse
from support.raylets import ROOT, Raylets

pytestmark = pytest.mark.slow
DASHBOARD = json.loads((ROOT / "deploy/grafana/maskfleet.json").read_text())
SMALL = ("--set", "min_size=128", "--set", "max_size=256")


@pytest.fixture(scope="module")
def scraped(fleet: Raylets, nuclei: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """What a scrape gave before a job's end, after it, and the job's output."""
    folder, output = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out") / "masks"
    image = Image.open(sorted(nuclei.iterdir())[0]).convert("RGB").crop((0, 0, 128, 128))
    for i in range(100):
        image.save(folder / f"{i:03d}.png")
    (folder / "empty.png").touch()
    (folder / "words.png").write_text("This is no picture.")
    command = ["python", "-m", "jobs.segment", str(folder), str(output), *SMALL]
    fleet.job("submit", "--no-wait", "--submission-id", "metrics", "--working-dir", ".", "--", *command)
    during = fleet.wait(lambda: scrape_if(fleet, lambda text: "ray_maskfleet_images_waiting" in text), 120)
    assert fleet.ended("metrics") == "SUCCEEDED", fleet.logs("metrics")
    after = fleet.wait(lambda: scrape_if(fleet, lambda text: totals(text)["ray_maskfleet_images_total"] >= 102), 30)
    return during, after, output


def scrape_if(fleet: Raylets, condition: Callable[[str], bool]) -> str:
    text = fleet.scrape()
    return text if condition(text) else ""


def totals(text: str, label: str | None = None) -> dict[str, float]:
    """Every sample of ours summed over the series, or of each value of a label: "name/value"."""
    sums: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("ray_maskfleet_") and (label is None or label in sample.labels):
                sums[f"{sample.name}/{sample.labels[label]}" if label else sample.name] += sample.value
    return sums


def test_counters_are_what_the_results_say(scraped: tuple[str, str, Path]) -> None:
    _, after, output = scraped
    rows = pads.dataset(str(output / "results"), format="parquet").to_table(columns=["error", "score"]).to_pylist()
    seen = totals(after)
    assert seen["ray_maskfleet_images_total"] == len(rows) == 102
    assert seen["ray_maskfleet_instances_total"] == sum(len(r["score"] or ()) for r in rows)
    kinds = Counter(r["error"].split(":")[0] for r in rows if r["error"])
    by_kind = totals(after, "kind")
    assert {k: by_kind[f"ray_maskfleet_errors_total/{k}"] for k in kinds} == kinds == {"EmptyFile": 1, "NotAnImage": 1}


def test_every_stage_and_batch_is_measured(scraped: tuple[str, str, Path]) -> None:
    _, after, _ = scraped
    seen, stages = totals(after), totals(after, "stage")
    for stage, images in {"fetch": 102, "decode": 102, "segment": 100, "encode": 102}.items():
        assert stages[f"ray_maskfleet_stage_images_total/{stage}"] == images
        assert stages[f"ray_maskfleet_stage_busy_seconds_total/{stage}"] > 0
        assert stages[f"ray_maskfleet_stage_seconds_count/{stage}"] >= 1
    folder_bytes = seen["ray_maskfleet_fetched_bytes_total"]
    assert folder_bytes > 100 * 1000
    assert seen["ray_maskfleet_batch_images_total"] == 100 <= seen["ray_maskfleet_batch_slots_total"]
    assert 0 < seen["ray_maskfleet_batch_pixels_total"] <= seen["ray_maskfleet_batch_input_pixels_total"]


def test_the_driver_says_what_is_left(scraped: tuple[str, str, Path]) -> None:
    during, _, _ = scraped
    assert 0 <= totals(during)["ray_maskfleet_images_left"] <= 102
    waiting = {k.split("/")[1] for k in totals(during, "stage") if k.startswith("ray_maskfleet_images_waiting/")}
    assert waiting == {"decode", "segment", "encode"}


def test_the_dashboard_asks_for_what_there_is(scraped: tuple[str, str, Path]) -> None:
    during, after, _ = scraped
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
