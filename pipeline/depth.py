"""Values of any depth to 8 bits: linearly, from the image's own minimum and maximum to 0 and 255."""

from __future__ import annotations

import numpy as np

STRIP = 256  # rows
Extremes = tuple[float, float]


def extremes(values: np.ndarray) -> Extremes:
    """Minimum and maximum, of NaN as 0."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        values = np.nan_to_num(values)
    return float(values.min()), float(values.max())


def stretch(values: np.ndarray, between: Extremes) -> np.ndarray:
    """Values of any shape and real dtype as uint8, linearly from the two extremes; a flat image is black."""
    low, high = between
    grey = np.zeros(values.shape, np.uint8)
    if high > low:
        for start in range(0, len(values), STRIP):  # of a whole image the float64 would be the largest part
            strip = np.nan_to_num(values[start : start + STRIP].astype(np.float64))
            grey[start : start + STRIP] = (strip - low) / (high - low) * 255 + 0.5
    return grey
