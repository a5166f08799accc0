"""Pickles of arrays, read without running anything they name.

A pickle is a program that may call any function by name. This one finds what arrays are made of and
refuses everything else, so the worst that a file can do is fail to load.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from model.errors import WeightsError

_CORES = ("numpy.core", "numpy._core")  # the name of numpy's inside before and after version 2


def _latin(text: str, encoding: str) -> bytes:
    """What `_codecs.encode` does in pickles of protocol 2: bytes written as Latin-1 text."""
    if encoding != "latin1":
        raise WeightsError(f"the pickle encodes text as {encoding!r}")
    return text.encode("latin1")


_REBUILD: Any = np.zeros(1).__reduce__()[0]
_SCALAR: Any = np.float32(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin,
}
_ALLOWED |= {(f"{core}.multiarray", "_reconstruct"): _REBUILD for core in _CORES}
_ALLOWED |= {(f"{core}.multiarray", "scalar"): _SCALAR for core in _CORES}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise WeightsError(f"the pickle wants {module}.{name}, which is no part of an array; it was not run")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise WeightsError("the pickle refers to data outside itself")


def load_arrays(data: bytes) -> Any:
    """The first object of a pickle that holds numbers, text, containers and numpy arrays only.

    Raises:
        WeightsError: it names anything else, or is damaged.
    """
    try:
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle fails in any way
        raise WeightsError(f"a damaged pickle ({type(error).__name__}: {error})") from None
