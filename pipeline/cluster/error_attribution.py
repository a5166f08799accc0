"""Decides whether an error comes from the output's store. If it does, it becomes one line that names the output."""

from __future__ import annotations

import errno
import os
import re

from ray.exceptions import RayError

from pipeline.errors import InputError
from pipeline.storage import Place, explain

STORE_CLIENTS = {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs"}  # packages that talk to stores


def attribute_error(error: Exception, output: Place) -> Exception:
    """The error to raise for one that ended the driver or a Ray task.

    The driver writes to one store only, the output's. Problems with inputs arrive as an `InputError` or as rows, so any
    other error of a store is the output's.

    Returns:
        An `InputError` from a task; an `InputError` about the output if its store failed; otherwise the same error.
    """
    if not isinstance(error, RayError):
        return explain(output.url, error) if _is_of_store(error, output) else error
    # Ray keeps an InputError of a task as text only.
    if found := re.findall(rf"^{InputError.__module__}\.{InputError.__name__}: (.*)$", str(error), re.MULTILINE):
        return InputError(found[-1])
    cause: Exception = getattr(error, "cause", None) or error
    return explain(output.url, cause) if _is_of_store(cause, output) else error


def _is_of_store(error: Exception, output: Place) -> bool:
    if not isinstance(error, OSError):
        return type(error).__module__.split(".")[0] in STORE_CLIENTS
    path = str(error.filename)
    if os.path.isabs(path):  # a local disk; clients of stores set no path, and Ray puts advice on retries there
        return output.protocol == "file" and (path.startswith(output.path) or output.path.startswith(path))
    return output.protocol == "file" or error.errno not in (errno.ENOSPC, errno.EDQUOT)
