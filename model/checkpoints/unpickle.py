"""Reads pickles of NumPy arrays without running any code in them.

A pickle is a program that may call any function by name. This unpickler resolves only the names that arrays consist
of and refuses all others, so the worst that a file can do is fail to load.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from model.errors import WeightsError

_NUMPY_CORES = ("numpy.core", "numpy._core")  # name of the module before and since NumPy 2


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Replaces `_codecs.encode`, with which pickles of protocol 2 turn Latin-1 text into bytes."""
    if encoding != "latin1":
        raise WeightsError(f"the pickle encodes text as {encoding!r}")
    return text.encode("latin1")


_RECONSTRUCT: Any = np.zeros(1).__reduce__()[0]
_SCALAR: Any = np.float32(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode_latin1,
}
_ALLOWED |= {(f"{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in _NUMPY_CORES}
_ALLOWED |= {(f"{core}.multiarray", "scalar"): _SCALAR for core in _NUMPY_CORES}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise WeightsError(f"the pickle wants {module}.{name}, which is not part of an array; it was not run")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise WeightsError("the pickle refers to data outside itself")


def load_arrays(data: bytes) -> Any:
    """Unpickles the first object of a pickle that holds only numbers, text, containers and NumPy arrays.

    Raises:
        WeightsError: The pickle names anything else, or is damaged.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise WeightsError(f"a damaged pickle ({type(error).__name__}: {error})") from None
