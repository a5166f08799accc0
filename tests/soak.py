"""Injects faults into a growing job at random for some minutes, restarts it until it is done, and prints a score.

    PYTHONPATH=. python tests/soak.py --minutes 10 --seed 0
    PYTHONPATH=. python tests/soak.py --minutes 10 --seed 0 --output disk

Everything is real: an S3 server behind a proxy that injects faults, a cluster of raylets, and the job as a user
runs it, on that cluster or on this machine. It writes to the S3 server or, with `--output disk`, to a small disk
that is full at times. The exit status is 0 if no row was lost or doubled and no mask differs
from those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from PIL import Image
from support.faults.check import Row, bit_equal, check_output, differences, rows_of
from support.faults.disk import SmallDisk
from support.faults.growth import GrowingInput, ShuffledCycle
from support.faults.images import original
from support.faults.jobs import Job, kill_all, raylets, run, workers
from support.faults.nodes import Nodes
from support.faults.proxy import Faults, Proxy

from jobs.sample import DATA
from jobs.sample.s3_server import S3Server
from pipeline.storage import Place

STAGES = ("Segment", "Encode", "Fetch", "Write", "_Register", "_Board")  # whose workers are killed
ATTEMPTS = 8  # of the undisturbed end
MEBIBYTES = 64  # of the disk: more than any soak writes
PHOTOS = Path(__file__).parent / "data" / "photos"


class Soak:
    """One output, and the faults that are injected while jobs write to it."""

    def __init__(self, server: S3Server, proxy: Proxy, nodes: Nodes, disk: SmallDisk | None, seed: int) -> None:
        self.server, self.proxy, self.nodes, self.disk = server, proxy, nodes, disk
        self.random = random.Random(seed)
        self.sources = [p for p in sorted((DATA / "images").iterdir()) if Image.open(p).size == (256, 256)][:12]
        self.images = GrowingInput.of_shipped(server.filesystem(), "lab/plates", self.sources, PHOTOS, seed)
        self.injected, self.statuses, self.second_jobs = Counter[str](), Counter[str](), Counter[str]()
        self.job: Job | None = None
        self.on_cluster = False
        options = {"key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY", "endpoint_url": "AWS_ENDPOINT_URL_S3"}
        self.output = Place("s3://lab/masks", {k: server.environment[v] for k, v in options.items()})
        if disk:
            self.output = Place(str(disk.folder / "masks"))
        self.faults = ShuffledCycle(self._faults(), self.random)
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        """Prints a line with the time since the start."""
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", file=sys.stderr, flush=True)

    def command(self) -> tuple[tuple[object, ...], dict[str, str]]:
        """Returns the arguments and environment of a job, on the cluster or on this machine."""
        environment = self.server.environment | {"AWS_ENDPOINT_URL_S3": self.proxy.endpoint}
        self.on_cluster = self.random.random() < 0.5
        if self.on_cluster:
            environment |= self.nodes.environment
        return ("s3://lab/plates", self.output.url, "--workers", 1), environment

    def disturbed(self, until: float) -> None:
        """Starts the job once and injects faults until it ends or the time is over."""
        arguments, environment = self.command()
        with Job(*arguments, environment=environment) as job:
            self.job = job
            self.say(f"job starts on {'the cluster' if self.on_cluster else 'this machine'}")
            while not self._ends_within(self.random.uniform(2, 14), until):
                fault = next(self.faults)
                if fault():
                    name = fault.__name__.strip("_").replace("_", " ")
                    self.injected[name] += 1
                    self.say(name)
                else:
                    self.faults.put_back(fault)
                if time.monotonic() > until:
                    break
            status = job.wait()
            self.statuses["killed" if status == -9 else str(status)] += 1
            last = next((line for line in job.log.splitlines()[::-1] if line.strip()), "")
            self.say(f"job ends with status {status}: {last[:200]}")

    def _ends_within(self, seconds: float, until: float) -> bool:
        deadline = min(time.monotonic() + seconds, until)
        while time.monotonic() < deadline:
            if self.job.ended:
                return True
            time.sleep(0.2)
        return self.job.ended

    def _faults(self) -> list[Callable[[], bool]]:
        """The faults. Each returns whether it could be injected."""
        return [
            self._driver_killed,
            self._raylet_killed,
            self._worker_killed,
            self._worker_killed,
            self._store_killed,
            self._store_busy,
            self._store_cuts,
            self._store_slow,
            self._disk_full if self.disk else self._store_denies,
            self._shard_replaced,
            self._second_job,
        ]

    def _driver_killed(self) -> bool:
        self.job.kill()
        return True

    def _raylet_killed(self) -> bool:
        if not self.on_cluster:
            victims = raylets(self.job.child_processes())
            kill_all(victims)
            return bool(victims)
        self.nodes.kill(self.random.choice(list(self.nodes.raylets)))
        self.nodes.add()
        return True

    def _worker_killed(self) -> bool:
        below = self.nodes.child_processes() if self.on_cluster else self.job.child_processes()
        victims = [p for stage in STAGES for p in workers(below, stage)]
        if victims:
            kill_all([self.random.choice(victims)])
        return bool(victims)

    def _store_killed(self) -> bool:
        self.server.kill()
        time.sleep(self.random.uniform(0, 8))
        self.server.start()
        return True

    def _for_a_while(self, faults: Faults) -> bool:
        self.proxy.faults = faults
        self._ends_within(self.random.uniform(5, 15), time.monotonic() + 15)
        self.proxy.heal()
        return True

    def _store_busy(self) -> bool:
        return self._for_a_while(Faults(busy=self.random.uniform(0.1, 0.5)))

    def _store_cuts(self) -> bool:
        return self._for_a_while(Faults(cut=self.random.uniform(0.1, 0.4), drop=self.random.uniform(0, 0.2)))

    def _store_slow(self) -> bool:
        return self._for_a_while(Faults(delay=self.random.uniform(0.2, 2)))

    def _store_denies(self) -> bool:
        return self._for_a_while(Faults(denied=self.random.uniform(0.2, 1), methods=("PUT", "POST", "DELETE")))

    def _disk_full(self) -> bool:
        assert self.disk
        self.disk.fill()
        self._ends_within(self.random.uniform(5, 15), time.monotonic() + 15)
        self.disk.free()
        return True

    def _shard_replaced(self) -> bool:
        return self.images.replace_a_shard()

    def _second_job(self) -> bool:
        if "segmenting" not in self.job.log:
            return False
        on_cluster = self.on_cluster
        arguments, environment = self.command()
        self.on_cluster = on_cluster
        with Job(*arguments, environment=environment) as second:
            status = second.wait()
        self.second_jobs["let in" if status == 0 and not self.job.ended else "refused" if status == 1 else "alone"] += 1
        return True

    def finish(self) -> int:
        """Runs the job undisturbed until it is done, then retries its errors; returns how often it was started."""
        self.proxy.heal()
        return self._until_done() + self._until_done("--retry-errors")

    def _until_done(self, *options: str) -> int:
        for attempt in range(1, ATTEMPTS + 1):
            arguments, environment = self.command()
            with Job(*arguments, *options, environment=environment) as job:
                status = job.wait()
                self.say(f"undisturbed run ends with status {status}")
                if status == 0:
                    return attempt
                self.say(job.log[-2000:])
        return ATTEMPTS


def score(soak: Soak, reference: dict[str, Row], starts: int, minutes: float) -> dict[str, object]:
    """Counts the faults that were injected, and checks the rows."""
    images, rows = soak.images, rows_of(soak.output)
    found = check_output(soak.output, images.inputs)
    good = {uri: row for uri, row in rows.items() if uri not in images.bad and uri not in images.unsure}
    unequal = differences(good, reference, original)
    errors = {uri: rows[uri]["error"] or "none" for uri in images.bad if uri in rows}
    wrong = {uri: error for uri, error in errors.items() if error == "none" or not error.startswith(images.bad[uri])}
    for uri, text in list((unequal | wrong).items())[:10]:
        soak.say(f"differs: {uri}: {text}")
    return {
        "minutes": round(minutes, 1),
        "faults": dict(soak.injected.most_common()),
        "faults_in_all": soak.injected.total(),
        "second_jobs": dict(soak.second_jobs),
        "requests": soak.proxy.counts.requests.total(),
        "requests_failed": {k: v for k, v in soak.proxy.counts.faults.items() if k != "delay"},
        "exit_statuses": dict(soak.statuses),
        "starts_until_done": soak.statuses.total() + starts,
        "rows_expected": len(images.inputs),
        "of_them_bad": len(images.bad),
        "of_them_damaged_at_random": len(images.unsure),
        "rows": found.rows,
        "lost": len(found.lost),
        "doubled": len(found.doubled),
        "unexpected": len(found.unexpected),
        "catalog_differs": len(found.catalog_differs),
        "stray_files": len(found.stray),
        "pending_checkpoints": len(found.pending),
        "masks_unequal": len(unequal),
        "masks_bit_equal": bit_equal(good, reference, original),
        "errors_unexpected": len(wrong),
    }


def soak(minutes: float, seed: int, to_disk: bool) -> bool:
    """Injects faults, finishes the job and prints the score; returns whether no row was lost, doubled or different."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maskfleet-soak-")))
        server = stack.enter_context(S3Server())
        proxy = stack.enter_context(Proxy(server.endpoint, seed=seed))
        nodes = stack.enter_context(Nodes(2, server.environment | {"AWS_ENDPOINT_URL_S3": proxy.endpoint}))
        server.filesystem().mkdir("lab")
        (folder / "disk").mkdir()
        disk = stack.enter_context(SmallDisk(folder / "disk", MEBIBYTES)) if to_disk else None
        it = Soak(server, proxy, nodes, disk, seed)
        it.say("an undisturbed run for reference")
        (folder / "sources").mkdir()
        for path in it.sources:
            (folder / "sources" / path.name).write_bytes(path.read_bytes())
        run(folder / "sources", folder / "reference", "--workers", 1)
        reference = {original(uri): row for uri, row in rows_of(Place(str(folder / "reference"))).items()}
        began = time.monotonic()
        while time.monotonic() < began + 60 * minutes:
            it.say(f"more images, {it.images.more()} now")
            it.disturbed(began + 60 * minutes)
        starts = it.finish()
        result = score(it, reference, starts, (time.monotonic() - began) / 60)
    print(json.dumps(result, indent=2))
    faultless = (
        "lost",
        "doubled",
        "unexpected",
        "catalog_differs",
        "stray_files",
        "pending_checkpoints",
        "masks_unequal",
    )
    return not any(result[key] for key in (*faultless, "errors_unexpected")) and not it.second_jobs["let in"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to inject faults (10)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    parser.add_argument("--output", choices=["s3", "disk"], default="s3", help="where the job writes (s3)")
    given = parser.parse_args()
    sys.exit(0 if soak(given.minutes, given.seed, given.output == "disk") else 1)
