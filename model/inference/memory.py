"""Memory that is free and not given back: kept from the system for the next tensors, or returned to it."""

from __future__ import annotations

import ctypes

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Lets this process keep freed memory for its next tensors, where the C library is glibc.

    Otherwise every map of some megabytes is mapped from the kernel afresh and its pages are zeroed one by
    one: a tenth of the forward pass of an R-50, and more than half of the time of a large matrix product.
    The price is that the process stays as large as its largest batch was, so it is for processes that do
    nothing but predict.

    Returns:
        Whether it took effect.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library (musl, macOS, Windows)
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def release_cached(device: torch.device) -> None:
    """Returns what PyTorch keeps of a GPU's memory for its next tensors: for after an allocation that failed.

    Free memory that lies in pieces, or that belongs to another stream, is of no use to what is tried next.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
