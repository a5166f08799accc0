"""Whose error it is: a store's errors become a line about the output, which is the one store the driver writes to."""

from __future__ import annotations

import errno
import os
import re

from ray.exceptions import RayError

from pipeline.errors import InputError
from pipeline.storage import Place, explain

CLIENTS = {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs"}  # packages that talk to stores


def attributed(error: Exception, output: Place) -> Exception:
    """The error to raise for one of the driver or of Ray: one of ours, the output's as a line, or the same.

    What goes wrong with inputs comes as ours or as a row, so any other of a store is of the output.
    """
    if not isinstance(error, RayError):
        return explain(output.url, error) if _of_store(error, output) else error
    # Ray keeps one of ours as text alone.
    if found := re.findall(rf"^{InputError.__module__}\.{InputError.__name__}: (.*)$", str(error), re.MULTILINE):
        return InputError(found[-1])
    cause: Exception = getattr(error, "cause", None) or error
    return explain(output.url, cause) if _of_store(cause, output) else error


def _of_store(error: Exception, output: Place) -> bool:
    if not isinstance(error, OSError):
        return type(error).__module__.split(".")[0] in CLIENTS
    path = str(error.filename)
    if os.path.isabs(path):  # of a disk; a store's clients give none, and Ray puts advice on retries there
        return output.protocol == "file" and (path.startswith(output.path) or output.path.startswith(path))
    return output.protocol == "file" or error.errno not in (errno.ENOSPC, errno.EDQUOT)
