"""Jobs submitted to a cluster of raylets: where their stages run, how many actors they have, what they measure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from support.raylets import Raylets


@dataclass(frozen=True)
class ContinuedJob:
    """A job that was submitted, stopped, and submitted again, and what was seen of it.

    Attributes:
        images: the addresses of its images.
        before: the rows of each results file when it was submitted again.
        results: the rows of each results file at the end.
        stopped_stages: a row each time a stage of the stopped job worked on a batch, see `stage_log`.
        stages: the same of the job that continued it.
        actors: how many actors that job had, second by second.
        logs: what its driver printed.
        at_start: what Prometheus read before that job.
        during: what Prometheus read shortly before its end.
        after: what Prometheus read after it.
    """

    images: list[str]
    before: dict[str, list[dict]]
    results: dict[str, list[dict]]
    stopped_stages: list[dict]
    stages: list[dict]
    actors: list[int]
    logs: str = field(repr=False)
    at_start: str = field(repr=False)
    during: str = field(repr=False)
    after: str = field(repr=False)

    @property
    def new_rows(self) -> list[dict]:
        """The rows that the second job wrote."""
        return [row for file, rows in self.results.items() if file not in self.before for row in rows]

    def counted(self, label: str | None = None) -> dict[str, float]:
        """What the second job added to each counter, see `totals`."""
        first, last = totals(self.at_start, label), totals(self.after, label)
        return {name: value - first.get(name, 0.0) for name, value in last.items()}


def watch(fleet: Raylets, job: str, release: Callable[[], None], seconds: float = 300.0) -> tuple[list[int], str]:
    """Waits until a job has succeeded; its number of actors each second, and one of the last scrapes with its gauges.

    Args:
        release: called when the pool has had two actors and has one again, which a test holds up until then.
    """
    actors, during = list[int](), ""

    def over() -> bool:
        nonlocal during
        actors.append(len(segment_actors(fleet)))
        if max(actors) == 2 and actors[-1] == 1:
            release()
        if len(actors) % 3 == 0:  # each costs the nodes' agents time
            during = scrape_if(fleet, lambda text: "ray_maskfleet_images_waiting" in text) or during
        return fleet.status(job) not in ("PENDING", "RUNNING")

    fleet.wait(over, seconds)
    assert fleet.status(job) == "SUCCEEDED", fleet.logs(job)
    return actors, during


def segment_actors(fleet: Raylets) -> list[dict]:
    """Segment actors that are there now; no other job runs."""
    return [a for a in fleet.state("actors", state="ALIVE") if "Segment" in a["class_name"]]


def devices(rows: list[dict]) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES of each actor that has segmented something."""
    return {r["actor"]: r["device"] for r in rows if r["stage"] == "segment"}


def scrape_if(fleet: Raylets, condition: Callable[[str], bool]) -> str:
    """What Prometheus would read now, if a condition holds of it; else nothing."""
    text = fleet.scrape()
    return text if condition(text) else ""


def totals(text: str, label: str | None = None) -> dict[str, float]:
    """Every sample of ours summed over the series, or of each value of a label: "name/value"."""
    sums: dict[str, float] = defaultdict(float)
    ours = "\n".join(line for line in text.splitlines() if "ray_maskfleet_" in line)
    for family in text_string_to_metric_families(ours):
        for sample in family.samples:
            if label is None or label in sample.labels:
                sums[f"{sample.name}/{sample.labels[label]}" if label else sample.name] += sample.value
    return sums


def images_counted(text: str) -> float:
    """Images that have been segmented or have failed, as Prometheus reads it."""
    return totals(text)["ray_maskfleet_images_total"]
