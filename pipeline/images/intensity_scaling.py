"""Values of any depth to 8 bits: linearly, from the image's own minimum and maximum to 0 and 255."""

from __future__ import annotations

import numpy as np

STRIP = 256  # rows
Extremes = tuple[float, float]


def extremes(values: np.ndarray) -> Extremes:
    """Minimum and maximum of the finite values; infinity and its negative where there are none."""
    if values.dtype.kind != "f":
        return float(values.min()), float(values.max())
    finite = np.isfinite(values)
    return float(values.min(where=finite, initial=np.inf)), float(values.max(where=finite, initial=-np.inf))


def stretch(values: np.ndarray, between: Extremes) -> np.ndarray:
    """Values of any shape and real dtype as uint8, linearly from the two extremes; NaN and a flat image are black."""
    low, high = between
    grey = np.zeros(values.shape, np.uint8)
    if high > low:
        for start in range(0, len(values), STRIP):  # of a whole image the float64 would be the largest part
            strip = np.nan_to_num(values[start : start + STRIP].astype(np.float64), nan=low, posinf=high, neginf=low)
            grey[start : start + STRIP] = (strip - low) / (high - low) * 255 + 0.5
    return grey
