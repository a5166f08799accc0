"""Which errors that end a job are the output's."""

from __future__ import annotations

import errno

import pytest
from botocore.exceptions import EndpointConnectionError
from ray.exceptions import RayTaskError

from pipeline.cluster.error_attribution import attribute_error
from pipeline.errors import InputError
from pipeline.storage import place

DISK, STORE = place("/data/masks"), place("s3://lab/masks")
ADVICE = "Failed to apply UDF transform after 1/1 attempts"  # what Ray Data makes of an OSError's filename


def full(filename: str | None = None) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", filename)


@pytest.mark.parametrize(
    ("error", "output"),
    [
        (full("/data/masks/results/a.parquet"), DISK),
        (full("/data"), DISK),
        (full(), DISK),
        (full(ADVICE), DISK),
        (OSError(errno.ECONNRESET, "reset"), STORE),
        (EndpointConnectionError(endpoint_url="http://localhost:1"), STORE),
        (RayTaskError("write", "Traceback ...", full(ADVICE)), DISK),
    ],
)
def test_the_outputs_errors_are_a_line_about_it(error: Exception, output: object) -> None:
    found = attribute_error(error, output)  # type: ignore[arg-type]
    assert isinstance(found, InputError)
    assert str(found).startswith(f"{output.url}: ")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "output"),
    [(full("/tmp/ray/spill"), DISK), (full("/tmp/ray/spill"), STORE), (full(), STORE), (ValueError("ours"), DISK)],
)
def test_others_are_not(error: Exception, output: object) -> None:
    assert attribute_error(error, output) is error  # type: ignore[arg-type]


def test_one_of_ours_is_found_in_the_text_that_ray_keeps() -> None:
    text = "Traceback ...\npipeline.errors.InputError: s3://lab/plates: access denied\n"
    found = attribute_error(RayTaskError("fetch", text, RuntimeError("hidden")), DISK)
    assert isinstance(found, InputError)
    assert str(found) == "s3://lab/plates: access denied"
