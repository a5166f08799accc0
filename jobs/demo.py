"""`maskfleet demo`: the main job on the shipped images, from a real S3 server on this machine."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import evaluate, query, status
from jobs.sample import DATA
from jobs.terminal.console import AsJson, console, err, errors_to_exit, print_json

if TYPE_CHECKING:
    from s3fs import S3FileSystem

SHARDED = 32  # images that go into two tar shards; the others are uploaded as single files
QUERY = """
select regexp_extract(uri, '[^/#]+$')[:12] as image, count(*) as nuclei, round(avg(area)) as mean_area,
       round(avg(score), 3) as mean_score
from instances where score >= 0.5 group by 1 order by nuclei desc limit 5
"""


@errors_to_exit
def demo(
    to: Annotated[
        Path, typer.Option(help="A folder for the picture and a copy of the results.", metavar="FOLDER")
    ] = Path("demo-output"),
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this many of the 48 images.", metavar="N")] = None,
    as_json: AsJson = False,
) -> None:
    """Segment 48 microscope images, then query, evaluate and draw the results.

    Everything is real: the S3 server (SeaweedFS, on loopback, stopped at the
    end), the images (CC0, shipped with their hand-made masks), the network and
    the job. It takes one to two minutes.

    [bold]Example[/]

    maskfleet demo --to demo-output
    """
    _announce("loading PyTorch and Ray")
    import pipeline.job  # noqa: F401 - takes seconds; the server starts afterwards
    from jobs.sample.s3_server import S3Server

    with _sigterm_interrupts(), S3Server() as server, _environment(server.environment):
        run_demo(server.filesystem(), to, limit, as_json)


def run_demo(s3: S3FileSystem, to: Path, limit: int | None, as_json: bool) -> None:
    """Runs the demo on an S3 server that is up; its address and keys are in the environment of Ray's workers."""
    from jobs.sample.picture import draw
    from pipeline.analysis.evaluate import evaluate as measure
    from pipeline.storage import place

    images = sorted((DATA / "images").iterdir())[:limit]
    _announce(f"a real S3 server is up at {s3.endpoint_url}; uploading {len(images)} images: two tar shards, and files")
    _upload(s3, images)
    output = place("s3://demo/masks")
    _segment([p for p in ("s3://demo/shards", "s3://demo/plates") if s3.exists(p)], output.url)
    annotations = DATA / "annotations.json"
    if not as_json:
        _announce("maskfleet status s3://demo/masks")
        status.status(output.url)
        _announce(f'maskfleet query s3://demo/masks "{" ".join(QUERY.split())}"')
        query.query(output.url, QUERY)
        _announce("maskfleet evaluate s3://demo/masks annotations.json")
        evaluate.evaluate(output.url, str(annotations))
    picture, masks = to / "nuclei.png", to / "nuclei-masks"
    drawn = draw(output, picture)
    shutil.rmtree(masks, ignore_errors=True)
    s3.get("demo/masks/results", str(masks / "results"), recursive=True)
    if as_json:
        figures = measure(output, annotations)
        print_json({"evaluate": figures, "picture": str(picture), "drawn": drawn, "results": str(masks)})
        return
    console.print()
    console.print(f"picture  {picture} ({drawn} nuclei outlined)", soft_wrap=True)
    console.print(f'results  {masks}: maskfleet query {masks} "select * from images"', soft_wrap=True)


def _segment(inputs: list[str], output: str) -> None:
    """Runs the main job."""
    from jobs.terminal.live_display import Display
    from pipeline.job import Options, run
    from pipeline.storage import place

    _announce(f"maskfleet segment {' '.join(inputs)} {output}")
    with Display() as display, redirect_stdout(sys.stderr):  # Ray prints its warnings to stdout
        run(Options(tuple(map(place, inputs)), place(output)), display)


def _upload(s3: S3FileSystem, images: list[Path]) -> None:
    """Uploads the images to the bucket `demo`: shards/ (two tars) and plates/ (files)."""
    s3.mkdir("demo")
    for number, members in enumerate((images[: SHARDED // 2], images[SHARDED // 2 : SHARDED])):
        if members:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                for path in members:
                    tar.add(path, arcname=path.name)
            s3.pipe_file(f"demo/shards/nuclei-{number:03d}.tar", buffer.getvalue())
    for path in images[SHARDED:]:
        s3.pipe_file(f"demo/plates/{path.name}", path.read_bytes())


def _announce(text: str) -> None:
    """Prints the next step on stderr."""
    err.print(f"\n[bold cyan]▸[/] {text}", soft_wrap=True)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets environment variables within the context. Ray's workers inherit them."""
    before = {k: os.environ.get(k) for k in (*variables, "AWS_PROFILE", "AWS_SESSION_TOKEN", "RAY_ADDRESS")}
    for key in before:
        os.environ.pop(key, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Makes SIGTERM end the demo like Ctrl-C, so that the server is stopped."""

    def interrupt(number: int, frame: FrameType | None) -> Any:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    typer.run(demo)
