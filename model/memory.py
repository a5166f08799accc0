"""What the C library does with memory that PyTorch gives back."""

from __future__ import annotations

import ctypes

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
