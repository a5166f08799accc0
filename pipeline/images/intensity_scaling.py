"""Intensity scaling: values of any depth to 8 bits, linearly from the image's minimum and maximum to 0 and 255."""

from __future__ import annotations

import numpy as np

STRIP_ROWS = 256
ValueRange = tuple[float, float]  # minimum and maximum


def value_range(values: np.ndarray) -> ValueRange:
    """Returns minimum and maximum of the finite values; (inf, -inf) if there are none."""
    if values.dtype.kind != "f":
        return float(values.min()), float(values.max())
    finite = np.isfinite(values)
    return float(values.min(where=finite, initial=np.inf)), float(values.max(where=finite, initial=-np.inf))


def scale_to_uint8(values: np.ndarray, limits: ValueRange) -> np.ndarray:
    """Scales values linearly so that the two limits become 0 and 255.

    Args:
        values: any shape and real dtype.
        limits: the values that become 0 and 255.

    Returns:
        uint8 of the same shape. NaN becomes 0, infinity 255. If the limits are equal, everything is 0.
    """
    low, high = limits
    scaled = np.zeros(values.shape, np.uint8)
    if high > low:
        # By strips: the float64 copy of a whole image would be the largest array of all.
        for start in range(0, len(values), STRIP_ROWS):
            strip = values[start : start + STRIP_ROWS].astype(np.float64)
            strip = np.nan_to_num(strip, nan=low, posinf=high, neginf=low)
            scaled[start : start + STRIP_ROWS] = (strip - low) / (high - low) * 255 + 0.5
    return scaled
