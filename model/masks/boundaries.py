"""Finds where a pasted mask crosses the threshold, column by column, in compiled code.

Between two rows of the 28x28 mask, a column of the pasted mask is linear, so it crosses the threshold at most
once. The crossing is computed. Only pixels next to it are evaluated, by the float32 expression that PyTorch
uses, so the result is equal to the last pixel. The work is about 30 steps per column of a box, and nothing of
image size is in memory.

Numba compiles this file, because the work is short loops with early exits; as whole-array operations it would
be a dozen passes over 30 values per column, most of them unnecessary. Numba needs no C compiler where it runs,
and it keeps floating point strict (no reordering, no contraction). `_fma` is the processor's instruction.

Named tuples here hold scalars only. A tuple that holds arrays makes Numba count references at each access, which
made this code three times slower.

The file is longer than 250 lines because Numba's disk cache only notices changes in the file of the cached
function, not in files whose functions it calls. All compiled code therefore has to be here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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

LEFT, RIGHT, OFFSET = 0, 1, 2  # rows of a column's values: the mask columns on both sides, interpolation - threshold


class Rule(NamedTuple):
    """How a mask is compared with the threshold."""

    threshold: np.float32
    inclusive: bool  # whether the threshold itself is inside
    order: int  # NESTED, PRODUCTS or CORNERS
    fused: bool  # whether PyTorch rounds a * b + c once
    tolerance: np.float32  # an interpolated value this close to the threshold may round to either side
    every_pixel: bool  # evaluate every pixel instead of computing crossings


class Segment(NamedTuple):
    """A run of image rows start..end-1 that lie between the mask rows `first` and `last`."""

    start: int
    end: int
    first: int
    last: int


def _compiled(function: Callable[..., Any], forceinline: bool = False) -> Any:
    """Compiles a function with Numba, and caches the machine code on disk if a folder is writable."""
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy", forceinline=forceinline)
    except RuntimeError:  # neither the package's folder nor the user's can be written
        return numba.njit(function, nogil=True, error_model="numpy", forceinline=forceinline)


def _inlined(function: Callable[..., Any]) -> Any:
    """Compiles a function into its callers: for work on single pixels, which costs less than a call."""
    return _compiled(function, forceinline=True)


@intrinsic
def _fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Computes a * b + c of float32, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@_inlined
def _mul_add(a, b, c, fused):  # type: ignore[no-untyped-def]
    return _fma(a, b, c) if fused else a * b + c


@_inlined
def _sample(corners, weights, order, fused):  # type: ignore[no-untyped-def]
    """Returns a bilinear sample, rounded as PyTorch rounds it.

    Args:
        corners: four float32: top left, top right, bottom left, bottom right.
        weights: four float32: left, right, top, bottom.
    """
    (tl, tr, bl, br), (x0, x1, y0, y1) = corners, weights
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

    A boundary at an even index begins ones, and one at an odd index ends them. So a column is inside the mask while
    the count is odd.

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
    (x_low, x_high, x0, x1), (y_low, y_high, y0, y1), (left, top, height) = x, y, place
    rows, segments, weights = len(y_low), _segments(y_low, y_high), _pair(y0, y1)
    rows_per_weight, sides = _rows_per_weight(segments, y1), np.zeros(len(segments), np.int8)
    tolerance, (inclusive, order, fused) = np.float32(2e-6) * max(np.abs(columns).max(), threshold), comparison
    every_pixel = order == PRODUCTS or rows < 4 * (len(segments) + 1)
    rule = Rule(threshold, inclusive, order, fused, tolerance, every_pixel)
    column = np.empty((3, columns.shape[1]), np.float32)
    boundaries, count = np.empty(256, np.int64), 0
    for i in range(len(x_low)):
        boundaries, base = _with_room(boundaries, count, rows + 2), (left + i) * height + top
        _fill_column(column, columns[x_low[i]], columns[x_high[i]], x0[i], x1[i], rule.threshold)
        if not every_pixel:
            _classify_segments(sides, column, segments, tolerance)
        for s in range(len(segments)):
            if sides[s] == (1 if count & 1 else -1):
                continue
            segment = Segment(segments[s, 0], segments[s, 1], segments[s, 2], segments[s, 3])
            row, end = segment.start, segment.end
            if not every_pixel and not sides[s]:
                crossing = _crossing_row(column, weights, segment, rows_per_weight[s], tolerance)
                if crossing >= 0:
                    starts_inside = column[OFFSET, segment.first] > ZERO
                    if row < crossing and starts_inside != (count & 1 == 1):
                        count = _add_boundary(boundaries, count, base + row)
                    if crossing < end and starts_inside == (count & 1 == 1):
                        count = _add_boundary(boundaries, count, base + crossing)
                    continue
            while row < end:
                if sides[s]:
                    stop, above = end, sides[s] > 0
                else:
                    stop, above = _next_run(column, weights, (x0[i], x1[i]), segment, row, rule)
                if above != (count & 1 == 1):
                    count = _add_boundary(boundaries, count, base + row)
                row = stop
        if count & 1:
            count = _add_boundary(boundaries, count, base + rows)
    return boundaries[:count]


@_compiled
def _segments(low, high):  # type: ignore[no-untyped-def]
    """Returns the fields of each `Segment` of the rows, int64 (S, 4)."""
    segments, count = np.empty((len(low), 4), np.int64), 0
    for row in range(len(low)):
        if row == 0 or low[row] != low[row - 1] or high[row] != high[row - 1]:
            segments[count, 0], segments[count, 2], segments[count, 3] = row, low[row], high[row]
            count += 1
        segments[count - 1, 1] = row + 1
    return segments[:count]


@_compiled
def _pair(first, second):  # type: ignore[no-untyped-def]
    pair = np.empty((2, len(first)), np.float32)
    pair[0], pair[1] = first, second
    return pair


@_compiled
def _rows_per_weight(segments, last_weight):  # type: ignore[no-untyped-def]
    """Returns, for each segment, the image rows from one mask row to the next, about: float32 (S,)."""
    result = np.zeros(len(segments), np.float32)
    for s in range(len(segments)):
        start, end = segments[s, 0], segments[s, 1]
        span = last_weight[end - 1] - last_weight[start]
        result[s] = np.float32(end - 1 - start) / span if span > ZERO else ZERO
    return result


@_compiled
def _with_room(boundaries, count, more):  # type: ignore[no-untyped-def]
    """Returns the array, or a longer copy if it has no room for `more` boundaries."""
    if count + more <= len(boundaries):
        return boundaries
    longer = np.empty(2 * len(boundaries) + more, np.int64)
    longer[:count] = boundaries[:count]
    return longer


@_compiled
def _fill_column(column, left, right, x0, x1, threshold):  # type: ignore[no-untyped-def]
    """Writes the values of one image column: the mask columns on both sides, and their interpolation's offset."""
    for k in range(len(left)):
        column[LEFT, k], column[RIGHT, k] = left[k], right[k]
        column[OFFSET, k] = left[k] * x0 + right[k] * x1 - threshold


@_compiled
def _classify_segments(sides, column, segments, tolerance):  # type: ignore[no-untyped-def]
    """Writes 1 for each segment that is certainly above the threshold, -1 for those below, 0 for the others."""
    for s in range(len(sides)):  # without a branch, so that the processor handles many at once
        above, below = column[OFFSET, segments[s, 2]], column[OFFSET, segments[s, 3]]
        sides[s] = np.int8(min(above, below) > tolerance) - np.int8(max(above, below) < -tolerance)


@_inlined
def _next_run(column, weights, x_weights, segment, row, rule):  # type: ignore[no-untyped-def]
    """Returns the end of the run that begins at `row`, and whether the run is inside the mask."""
    y0, y1 = weights[0, row], weights[1, row]
    if not rule.every_pixel:
        stop = _certain_until(column, weights, segment, row, rule.tolerance)
        if stop > row + 1:
            return stop, column[OFFSET, segment.first] * y0 + column[OFFSET, segment.last] * y1 > ZERO
    lo, hi = segment.first, segment.last
    corners = column[LEFT, lo], column[RIGHT, lo], column[LEFT, hi], column[RIGHT, hi]
    value = _sample(corners, (x_weights[0], x_weights[1], y0, y1), rule.order, rule.fused)
    return row + 1, value > rule.threshold or (rule.inclusive and value == rule.threshold)


@_inlined
def _crossing_row(column, weights, segment, rows_per_weight, tolerance):  # type: ignore[no-untyped-def]
    """Returns the first row of a segment beyond its crossing, or -1 if there is none or rounding could move it."""
    above, below = column[OFFSET, segment.first], column[OFFSET, segment.last]
    if not min(abs(above), abs(below)) > tolerance or (above > ZERO) == (below > ZERO):
        return -1
    # A guess that assumes evenly spaced rows. The rows on both sides of it are checked.
    row, end = segment.start, segment.end
    steps = (above / (above - below) - weights[1, row]) * rows_per_weight
    crossing = row if steps < ZERO else min(row + np.int64(min(steps, np.float32(end))) + 1, end)
    if crossing > row:
        before = above * weights[0, crossing - 1] + below * weights[1, crossing - 1]
        if not abs(before) > tolerance or (before > ZERO) != (above > ZERO):
            return -1
    if crossing < end:
        after = above * weights[0, crossing] + below * weights[1, crossing]
        if not abs(after) > tolerance or (after > ZERO) != (below > ZERO):
            return -1
    return crossing


@_inlined
def _certain_until(column, weights, segment, row, tolerance):  # type: ignore[no-untyped-def]
    """Returns the first row of a segment after `row` that is not certainly on the same side of the threshold."""
    end, above, below = segment.end, column[OFFSET, segment.first], column[OFFSET, segment.last]
    now = above * weights[0, row] + below * weights[1, row]
    if not abs(now) > tolerance:  # also NaN, from a box without extent
        return row + 1
    last = above * weights[0, end - 1] + below * weights[1, end - 1]
    positive = now > ZERO
    if abs(last) > tolerance and (last > ZERO) == positive:
        return end
    # The crossing, from the weight at which the line is zero. Rows are evenly spaced in that weight.
    crossing = above / (above - below)
    span = weights[1, end - 1] - weights[1, row]
    steps = np.float32(end - 1 - row) * (crossing - weights[1, row]) / span if span > ZERO else ZERO
    stop = min(max(row + 1 + np.int64(max(min(steps, np.float32(end)), ZERO)), row + 1), end)
    while stop > row + 1:  # go back to a certain row: a step or two
        value = above * weights[0, stop - 1] + below * weights[1, stop - 1]
        if abs(value) > tolerance and (value > ZERO) == positive:
            break
        stop -= 1
    return stop


@_inlined
def _add_boundary(boundaries, count, pixel):  # type: ignore[no-untyped-def]
    """Adds a boundary and returns the new count; ones that begin where the last ones ended continue them."""
    if count and not count & 1 and boundaries[count - 1] == pixel:
        return count - 1
    boundaries[count] = pixel
    return count + 1


@_compiled
def pasted_values(columns, x, y, arithmetic):  # type: ignore[no-untyped-def]
    """Returns every value of a pasted mask, float32 (rows, columns): what `mask_boundaries` avoids."""
    (x_low, x_high, x0, x1), (y_low, y_high, y0, y1), (order, fused) = x, y, arithmetic
    values = np.empty((len(y_low), len(x_low)), np.float32)
    for i in range(len(x_low)):
        a, b = columns[x_low[i]], columns[x_high[i]]
        for row in range(len(y_low)):
            lo, hi = y_low[row], y_high[row]
            weights = x0[i], x1[i], y0[row], y1[row]
            values[row, i] = _sample((a[lo], b[lo], a[hi], b[hi]), weights, order, fused)
    return values


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
