"""Finds where a pasted mask crosses the threshold, column by column, in compiled code.

Between two rows of the 28x28 mask, a column of the pasted mask is linear, so it crosses the threshold at most
once. The crossing is computed. Only pixels next to it are evaluated, by the float32 expression that PyTorch
uses, so the result is equal to the last pixel. The work is about 30 steps per column of a box, and nothing of
image size is in memory.

Numba compiles this file, because the work is short loops with early exits; as whole-array operations it would
be a dozen passes over 30 values per column, most of them unnecessary. Numba needs no C compiler where it runs,
and it keeps floating point strict (no reordering, no contraction). `_fma` is the processor's instruction.

The inner functions take plain scalars and arrays, more than six, and the loop over columns is one long function:
grouped into tuples and split further, this code was twice as slow.

All compiled code is in one file of more than 250 lines because Numba's disk cache only notices changes in the file of
the cached function, not in files whose functions it calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

# The orders in which PyTorch's kernels add up the four corners of a bilinear sample.
NESTED = 0  # upsample_bilinear2d: along x, then along y
PRODUCTS = 1  # upsample_bilinear2d of outputs with height + width <= 128: four products, the second corner first
CORNERS = 2  # grid_sample: four products in order
SMALL = 128  # PyTorch's limit for PRODUCTS (aten/src/ATen/native/cpu/UpSampleKernel.cpp)

HALF, ONE, TWO, ZERO = np.float32(0.5), np.float32(1), np.float32(2), np.float32(0)


# For each pixel on an axis of the image: the two mask values it lies between (int64), and their float32 weights.
Axis = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _compiled(function: Callable[..., Any]) -> Any:
    """Compiles a function with Numba, and caches the machine code on disk if a folder is writable."""
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # neither the package's folder nor the user's can be written
        return numba.njit(function, nogil=True, error_model="numpy")


@intrinsic
def _fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Computes a * b + c of float32, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@_compiled
def _mul_add(a, b, c, fused):  # type: ignore[no-untyped-def]
    return _fma(a, b, c) if fused else a * b + c


@_compiled
def _sample(tl, tr, bl, br, x0, x1, y0, y1, order, fused):  # type: ignore[no-untyped-def]
    """Returns a bilinear sample of four corners (top left, ...) with weights along x and y, as PyTorch rounds it."""
    if order == NESTED:
        top = _mul_add(tl, x0, tr * x1, fused)
        bottom = _mul_add(bl, x0, br * x1, fused)
        return _mul_add(top, y0, bottom * y1, fused)
    if order == PRODUCTS:
        total = _mul_add(y0 * x0, tl, (y0 * x1) * tr, fused)
    else:
        total = _mul_add(y0 * x1, tr, (y0 * x0) * tl, fused)
    total = _mul_add(y1 * x0, bl, total, fused)
    return _mul_add(y1 * x1, br, total, fused)


@_compiled
def interpolate_axis(first, last, origin, length, side, fused):  # type: ignore[no-untyped-def]
    """Returns the `Axis` of pixels first..last-1 as `interpolate(mode="bilinear", align_corners=False)` has it.

    Args:
        origin: the pixel at which the resized mask begins.
        length: pixels that the mask is resized to.
        side: values of the mask.
    """
    low, high, w0, w1 = _empty_axis(last - first)
    scale = np.float32(side) / np.float32(length)
    for i in range(last - first):
        position = max(_mul_add(scale, np.float32(first + i - origin) + HALF, -HALF, fused), ZERO)
        low[i] = min(np.int64(np.floor(position)), side - 1)
        high[i] = min(low[i] + 1, side - 1)
        w1[i] = min(max(position - np.float32(low[i]), ZERO), ONE)
        w0[i] = ONE - w1[i]
    return low, high, w0, w1


@_compiled
def grid_sample_axis(first, last, start, end, side, fused):  # type: ignore[no-untyped-def]
    """Returns the `Axis` of pixels first..last-1 as `grid_sample` has it.

    Args:
        start: where the box begins on the axis, float32 pixels.
        end: where it ends.
        side: values of the mask, the border of zeros included.
    """
    low, high, w0, w1 = _empty_axis(last - first)
    half = np.float32(side - 2) / TWO
    for i in range(last - first):
        position = (np.float32(first + i) + HALF - start) / (end - start) * TWO - ONE  # -1..1 inside the box
        position = _mul_add(position + ONE, half, -HALF, fused)
        floor = np.floor(position)
        w1[i] = position - floor
        w0[i] = ONE - w1[i]
        inside = floor >= -ONE and floor <= np.float32(side - 3)
        low[i] = np.int64(floor) + 1 if inside else 0  # outside the border, both values are zero
        high[i] = low[i] + 1 if inside else 0
    return low, high, w0, w1


@_compiled
def _empty_axis(count):  # type: ignore[no-untyped-def]
    low, high = np.empty(count, np.int64), np.empty(count, np.int64)
    return low, high, np.empty(count, np.float32), np.empty(count, np.float32)


@_compiled
def mask_boundaries(columns, x, y, place, threshold, comparison):  # type: ignore[no-untyped-def]
    """Returns the boundaries of a pasted mask, in COCO's order of pixels.

    Args:
        columns: float32 (side, side), the mask with its border of zeros, transposed: `columns[x, y]`.
        x: the `Axis` of the image's columns from `left` on.
        y: the `Axis` of the image's rows from `top` on.
        place: (left, top, height of the image), pixels.
        threshold: float32.
        comparison: (whether the threshold itself is inside, order of sums, whether a * b + c is rounded once).

    Returns:
        int64: the pixels (column * height + row) at which ones begin, zeros begin, ones begin, ...
    """
    (x_low, x_high, x0, x1), (y_low, y_high, y0, y1) = x, y
    (left, top, height), (inclusive, order, fused) = place, comparison
    rows = len(y_low)
    # An interpolated value this close to the threshold may round to either side.
    tolerance = np.float32(2e-6) * max(np.abs(columns).max(), threshold)
    starts = _segments(y_low, y_high)
    segments = len(starts) - 1
    first, last = y_low[starts[:-1]], y_high[starts[:-1]]
    every_pixel = order == PRODUCTS or rows < 4 * len(starts)
    boundaries = np.empty(256, np.int64)
    count = 0
    offsets = np.empty(columns.shape[1], np.float32)  # of the column's interpolated values from the threshold
    rows_per_weight = np.zeros(segments, np.float32)  # image rows from one mask row to the next, about
    for s in range(segments):
        span = y1[starts[s + 1] - 1] - y1[starts[s]]
        rows_per_weight[s] = np.float32(starts[s + 1] - 1 - starts[s]) / span if span > ZERO else ZERO
    sides = np.zeros(segments, np.int8)  # 1: certainly above the threshold, -1: certainly below, 0: neither
    for i in range(len(x_low)):
        a, b = columns[x_low[i]], columns[x_high[i]]
        if count + rows + 2 > len(boundaries):
            longer = np.empty(2 * len(boundaries) + rows + 2, np.int64)
            longer[:count] = boundaries[:count]
            boundaries = longer
        base = (left + i) * height + top
        inside = np.int8(-1)
        if not every_pixel:
            for k in range(len(offsets)):
                offsets[k] = a[k] * x0[i] + b[k] * x1[i] - threshold
            for s in range(segments):  # without a branch, so that the processor handles many at once
                above, below = offsets[first[s]], offsets[last[s]]
                sides[s] = np.int8(min(above, below) > tolerance) - np.int8(max(above, below) < -tolerance)
        for s in range(segments):
            if sides[s] == inside:
                continue
            row, end, lo, hi = starts[s], starts[s + 1], first[s], last[s]
            if not every_pixel and not sides[s]:
                crossing = _crossing_row(offsets[lo], offsets[hi], tolerance, row, end, y0, y1, rows_per_weight[s])
                if crossing >= 0:
                    for here, start, stop in (
                        (offsets[lo] > ZERO, row, crossing),
                        (offsets[hi] > ZERO, crossing, end),
                    ):
                        if start < stop and here != (inside > 0):
                            count = _add_boundary(boundaries, count, base + start, here)
                            inside = np.int8(1) if here else np.int8(-1)
                    continue
            while row < end:
                stop, here = row + 1, sides[s]
                if here:
                    stop = end
                else:
                    if not every_pixel:
                        stop = _certain_until(offsets[lo], offsets[hi], tolerance, row, end, y0, y1)
                    if stop > row + 1:
                        above = offsets[lo] * y0[row] + offsets[hi] * y1[row] > ZERO
                    else:
                        value = _sample(a[lo], b[lo], a[hi], b[hi], x0[i], x1[i], y0[row], y1[row], order, fused)
                        above = value > threshold or (inclusive and value == threshold)
                    here = np.int8(1) if above else np.int8(-1)
                if here != inside:
                    count = _add_boundary(boundaries, count, base + row, here > 0)
                    inside = here
                row = stop
        if inside > 0:
            count = _add_boundary(boundaries, count, base + rows, False)
    return boundaries[:count]


@_compiled
def pasted_values(columns, x, y, arithmetic):  # type: ignore[no-untyped-def]
    """Returns every value of a pasted mask, float32 (rows, columns): what `mask_boundaries` avoids."""
    (x_low, x_high, x0, x1), (y_low, y_high, y0, y1), (order, fused) = x, y, arithmetic
    values = np.empty((len(y_low), len(x_low)), np.float32)
    for i in range(len(x_low)):
        a, b = columns[x_low[i]], columns[x_high[i]]
        for row in range(len(y_low)):
            lo, hi = y_low[row], y_high[row]
            values[row, i] = _sample(a[lo], b[lo], a[hi], b[hi], x0[i], x1[i], y0[row], y1[row], order, fused)
    return values


@_compiled
def _segments(low, high):  # type: ignore[no-untyped-def]
    """Returns the first row of each run of rows between the same two mask rows, and one past the last row."""
    starts, count = np.empty(len(low) + 1, np.int64), 0
    for row in range(len(low)):
        if row == 0 or low[row] != low[row - 1] or high[row] != high[row - 1]:
            starts[count] = row
            count += 1
    starts[count] = len(low)
    return starts[: count + 1]


@_compiled
def _crossing_row(above, below, tolerance, row, end, y0, y1, rows_per_weight):  # type: ignore[no-untyped-def]
    """Returns the first row of a segment beyond its crossing, or -1 if there is none or rounding could move it.

    Args:
        above: offset of the segment's first mask row from the threshold.
        below: offset of its last mask row, on the other side.
        row: first image row of the segment.
        end: one past its last image row.
    """
    if not min(abs(above), abs(below)) > tolerance or (above > ZERO) == (below > ZERO):
        return -1
    # A guess that assumes evenly spaced rows. The rows on both sides of it are checked.
    steps = (above / (above - below) - y1[row]) * rows_per_weight
    crossing = row if steps < ZERO else min(row + np.int64(min(steps, np.float32(end))) + 1, end)
    if crossing > row:
        before = above * y0[crossing - 1] + below * y1[crossing - 1]
        if not abs(before) > tolerance or (before > ZERO) != (above > ZERO):
            return -1
    if crossing < end:
        after = above * y0[crossing] + below * y1[crossing]
        if not abs(after) > tolerance or (after > ZERO) != (below > ZERO):
            return -1
    return crossing


@_compiled
def _certain_until(above, below, tolerance, row, end, y0, y1):  # type: ignore[no-untyped-def]
    """Returns the first row of a segment after `row` that is not certainly on the same side of the threshold.

    Args:
        above: offset of the segment's first mask row from the threshold.
        below: offset of its last mask row.
        end: one past the segment's last image row.
    """
    now = above * y0[row] + below * y1[row]
    if not abs(now) > tolerance:  # also NaN, from a box without extent
        return row + 1
    last = above * y0[end - 1] + below * y1[end - 1]
    positive = now > ZERO
    if abs(last) > tolerance and (last > ZERO) == positive:
        return end
    # The crossing, from the weight at which the line is zero. Rows are evenly spaced in that weight.
    crossing = above / (above - below)
    span = y1[end - 1] - y1[row]
    steps = np.float32(end - 1 - row) * (crossing - y1[row]) / span if span > ZERO else ZERO
    stop = min(max(row + 1 + np.int64(max(min(steps, np.float32(end)), ZERO)), row + 1), end)
    while stop > row + 1:  # go back to a certain row: a step or two
        value = above * y0[stop - 1] + below * y1[stop - 1]
        if abs(value) > tolerance and (value > ZERO) == positive:
            break
        stop -= 1
    return stop


@_compiled
def _add_boundary(boundaries, count, pixel, begins):  # type: ignore[no-untyped-def]
    """Adds a boundary and returns the new count; ones that begin where the last ones ended continue them."""
    if begins and count and boundaries[count - 1] == pixel:
        return count - 1
    boundaries[count] = pixel
    return count + 1


@_compiled
def write_counts(boundaries, pixels, out):  # type: ignore[no-untyped-def]
    """Writes boundaries as COCO's compressed `counts`; `model.masks.rle` describes the format.

    Args:
        pixels: number of pixels of the image.
        out: uint8, at least `model.masks.rle.CHARACTERS_PER_RUN` for each boundary and one more run.

    Returns:
        The length of the string, and the number of ones.
    """
    previous, one_before, two_before, ones, length = 0, 0, 0, 0, 0
    for i in range(len(boundaries) + 1):
        boundary = boundaries[i] if i < len(boundaries) else pixels
        count = boundary - previous
        if i == len(boundaries) and count == 0 and i > 0:
            break
        rest = count - two_before if i > 2 else count
        more = True
        while more:
            group = rest & 31
            rest >>= 5
            more = rest != -1 if group & 16 else rest != 0
            out[length] = (group | 32 if more else group) + 48
            length += 1
        if i & 1:
            ones += count
        previous, two_before, one_before = boundary, one_before, count
    return length, ones
