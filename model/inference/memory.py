"""Controls freed memory: a process keeps it for its next tensors, or returns it to the system or the GPU."""

from __future__ import annotations

import ctypes

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Makes this process keep freed memory for its next tensors, if the C library is glibc.

    By default the kernel maps every feature map of some megabytes anew and zeroes its pages. That is a tenth of
    an R-50's forward pass, and more than half the time of a large matrix product. The process then stays as
    large as its largest batch, so use this only in processes that do nothing but predict.

    Returns:
        Whether it took effect.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library (musl, macOS, Windows)
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def release_cached(device: torch.device) -> None:
    """Returns the GPU memory that PyTorch has cached. Call it after an allocation has failed.

    Cached memory that is fragmented, or belongs to another stream, cannot serve the next attempt.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
