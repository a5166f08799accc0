"""Where a pasted mask crosses the threshold, column by column, in compiled code.

A column of a pasted mask is linear between the rows of the 28x28 mask, so it crosses the threshold at most
once between two of them. The crossing is computed; only the pixels beside it are evaluated, by the very
float32 expression that PyTorch evaluates, so that the result is the same to the last pixel. Work is about
30 times the width of a box, and nothing of image size is in memory.

Compiled by Numba, because the work is short loops that end early, which as whole-array operations would be
a dozen passes over 30 values a column, most of them for nothing. Numba needs no compiler where it is
installed, keeps floating point strict (no reordering, no contraction), and `_fma` is the processor's own. All
of it is one file: what Numba keeps on disk is made anew when the file of a function changes, not those it calls.
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


def _compiled(function: Callable[..., Any]) -> Any:
    """Numba's `njit`, with the machine code kept on disk where there is a place for it."""
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # neither the package's folder nor the user's can be written
        return numba.njit(function, nogil=True, error_model="numpy")


@intrinsic
def _fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c of float32, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@_compiled
def _mul_add(a, b, c, fused):  # type: ignore[no-untyped-def]
    return _fma(a, b, c) if fused else a * b + c


@_compiled
def _sample(tl, tr, bl, br, x0, x1, y0, y1, order, fused):  # type: ignore[no-untyped-def]
    """A bilinear sample of four corners (top left, ...) with weights along x and y, as PyTorch rounds it."""
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
def interpolated_axis(first, last, origin, length, side, fused):  # type: ignore[no-untyped-def]
    """Where the pixels first..last-1 of an image fall on an axis of `side` values resized to `length` at `origin`.

    Returns:
        For each pixel the two values it lies between (int64) and their weights (float32), as
        `interpolate(mode="bilinear", align_corners=False)` has them.
    """
    low, high, w0, w1 = _tables(last - first)
    scale = np.float32(side) / np.float32(length)
    for i in range(last - first):
        at = max(_mul_add(scale, np.float32(first + i - origin) + HALF, -HALF, fused), ZERO)
        low[i] = min(np.int64(np.floor(at)), side - 1)
        high[i] = min(low[i] + 1, side - 1)
        w1[i] = min(max(at - np.float32(low[i]), ZERO), ONE)
        w0[i] = ONE - w1[i]
    return low, high, w0, w1


@_compiled
def sampled_axis(first, last, start, end, side, fused):  # type: ignore[no-untyped-def]
    """The same for a mask of `side` - 2 values, fenced by zeros, stretched over start..end by `grid_sample`."""
    low, high, w0, w1 = _tables(last - first)
    half = np.float32(side - 2) / TWO
    for i in range(last - first):
        at = (np.float32(first + i) + HALF - start) / (end - start) * TWO - ONE  # -1..1 inside the box
        at = _mul_add(at + ONE, half, -HALF, fused)
        floor = np.floor(at)
        w1[i] = at - floor
        w0[i] = ONE - w1[i]
        inside = floor >= -ONE and floor <= np.float32(side - 3)
        low[i] = np.int64(floor) + 1 if inside else 0  # beyond the fence both are zero
        high[i] = low[i] + 1 if inside else 0
    return low, high, w0, w1


@_compiled
def _tables(count):  # type: ignore[no-untyped-def]
    low, high = np.empty(count, np.int64), np.empty(count, np.int64)
    return low, high, np.empty(count, np.float32), np.empty(count, np.float32)


@_compiled
def crossings(columns, x, y, left, top, height, threshold, inclusive, order, fused):  # type: ignore[no-untyped-def]
    """The edges of a pasted mask, in COCO's order of pixels.

    Args:
        columns: float32 (side, side), the fenced mask transposed: `columns[x, y]`.
        x: tables of the image's columns from `left` on, by `interpolated_axis` or `sampled_axis`.
        y: tables of its rows from `top` on.
        height: of the image.
        inclusive: whether the threshold itself is inside.

    Returns:
        int64: the pixel (column * height + row) at which ones begin, zeros begin, ones begin, ...
    """
    (x_low, x_high, x0, x1), (y_low, y_high, y0, y1) = x, y
    rows = len(y_low)
    # A computed crossing is trusted where its value is further from the threshold than rounding reaches.
    doubt = np.float32(2e-6) * max(np.abs(columns).max(), threshold)
    starts = _segments(y_low, y_high)
    segments = len(starts) - 1
    first, last = y_low[starts[:-1]], y_high[starts[:-1]]
    direct = order == PRODUCTS or rows < 4 * len(starts)
    edges = np.empty(256, np.int64)
    count = 0
    knots = np.empty(columns.shape[1], np.float32)
    pace = np.zeros(segments, np.float32)  # rows from a segment's first value to its last, as far as they are even
    for s in range(segments):
        span = y1[starts[s + 1] - 1] - y1[starts[s]]
        pace[s] = np.float32(starts[s + 1] - 1 - starts[s]) / span if span > ZERO else ZERO
    sides = np.zeros(segments, np.int8)  # of the threshold, certainly: 1 above, -1 below; 0 crossing or in doubt
    for i in range(len(x_low)):
        a, b = columns[x_low[i]], columns[x_high[i]]
        if count + rows + 2 > len(edges):
            longer = np.empty(2 * len(edges) + rows + 2, np.int64)
            longer[:count] = edges[:count]
            edges = longer
        base = (left + i) * height + top
        inside = np.int8(-1)
        if not direct:
            for k in range(len(knots)):
                knots[k] = a[k] * x0[i] + b[k] * x1[i] - threshold
            for s in range(segments):  # without a branch, so that the processor does many at once
                above, below = knots[first[s]], knots[last[s]]
                sides[s] = np.int8(min(above, below) > doubt) - np.int8(max(above, below) < -doubt)
        for s in range(segments):
            if sides[s] == inside:
                continue
            row, end, lo, hi = starts[s], starts[s + 1], first[s], last[s]
            if not direct and not sides[s]:
                turn = _turn(knots[lo], knots[hi], doubt, row, end, y0, y1, pace[s])
                if turn >= 0:
                    for here, at, until in ((knots[lo] > ZERO, row, turn), (knots[hi] > ZERO, turn, end)):
                        if at < until and here != (inside > 0):
                            count = _edge(edges, count, base + at, here)
                            inside = np.int8(1) if here else np.int8(-1)
                    continue
            while row < end:
                stop, here = row + 1, sides[s]
                if here:
                    stop = end
                else:
                    if not direct:
                        stop = _certain(knots[lo], knots[hi], doubt, row, end, y0, y1)
                    if stop > row + 1:
                        above = knots[lo] * y0[row] + knots[hi] * y1[row] > ZERO
                    else:
                        value = _sample(a[lo], b[lo], a[hi], b[hi], x0[i], x1[i], y0[row], y1[row], order, fused)
                        above = value > threshold or (inclusive and value == threshold)
                    here = np.int8(1) if above else np.int8(-1)
                if here != inside:
                    count = _edge(edges, count, base + row, here > 0)
                    inside = here
                row = stop
        if inside > 0:
            count = _edge(edges, count, base + rows, False)
    return edges[:count]


@_compiled
def sampled(columns, x, y, order, fused):  # type: ignore[no-untyped-def]
    """Every value of a pasted mask, float32 (rows, columns): what `crossings` does without."""
    (x_low, x_high, x0, x1), (y_low, y_high, y0, y1) = x, y
    values = np.empty((len(y_low), len(x_low)), np.float32)
    for i in range(len(x_low)):
        a, b = columns[x_low[i]], columns[x_high[i]]
        for row in range(len(y_low)):
            lo, hi = y_low[row], y_high[row]
            values[row, i] = _sample(a[lo], b[lo], a[hi], b[hi], x0[i], x1[i], y0[row], y1[row], order, fused)
    return values


@_compiled
def _segments(low, high):  # type: ignore[no-untyped-def]
    """The first row of each run of rows that lie between the same two values, and one past the last."""
    starts, count = np.empty(len(low) + 1, np.int64), 0
    for row in range(len(low)):
        if row == 0 or low[row] != low[row - 1] or high[row] != high[row - 1]:
            starts[count] = row
            count += 1
    starts[count] = len(low)
    return starts[: count + 1]


@_compiled
def _turn(above, below, doubt, row, end, y0, y1, pace):  # type: ignore[no-untyped-def]
    """The first row of a segment that is on the side of its last value, where that is certain; else -1.

    Args:
        above: the segment's first value less the threshold.
        below: its last, on the other side.
        pace: rows from one value to the other, about: the guess it leads to is checked.
    """
    if not min(abs(above), abs(below)) > doubt or (above > ZERO) == (below > ZERO):
        return -1
    steps = (above / (above - below) - y1[row]) * pace
    turn = row if steps < ZERO else min(row + np.int64(min(steps, np.float32(end))) + 1, end)
    if turn > row:
        before = above * y0[turn - 1] + below * y1[turn - 1]
        if not abs(before) > doubt or (before > ZERO) != (above > ZERO):
            return -1
    if turn < end:
        after = above * y0[turn] + below * y1[turn]
        if not abs(after) > doubt or (after > ZERO) != (below > ZERO):
            return -1
    return turn


@_compiled
def _certain(above, below, doubt, row, end, y0, y1):  # type: ignore[no-untyped-def]
    """The first row after `row` that is not certainly on the same side of the threshold, within a segment.

    Args:
        above: the segment's first value less the threshold.
        below: its last.
    """
    now = above * y0[row] + below * y1[row]
    if not abs(now) > doubt:  # NaN, of a box without extent, is in doubt too
        return row + 1
    last = above * y0[end - 1] + below * y1[end - 1]
    positive = now > ZERO
    if abs(last) > doubt and (last > ZERO) == positive:
        return end
    # The crossing, from the weight at which the line is zero; rows are evenly spaced in that weight.
    crossing = above / (above - below)
    span = y1[end - 1] - y1[row]
    steps = np.float32(end - 1 - row) * (crossing - y1[row]) / span if span > ZERO else ZERO
    stop = min(max(row + 1 + np.int64(max(min(steps, np.float32(end)), ZERO)), row + 1), end)
    while stop > row + 1:  # back to where there is no doubt; a step or two
        value = above * y0[stop - 1] + below * y1[stop - 1]
        if abs(value) > doubt and (value > ZERO) == positive:
            break
        stop -= 1
    return stop


@_compiled
def _edge(edges, count, pixel, begins):  # type: ignore[no-untyped-def]
    """Adds an edge; ones that begin where the last ones ended (at the top of the next column) go on."""
    if begins and count and edges[count - 1] == pixel:
        return count - 1
    edges[count] = pixel
    return count + 1


@_compiled
def packed(edges, pixels, out, at):  # type: ignore[no-untyped-def]
    """Writes edges as COCO's compressed `counts` to `out` from `at` on; see `model.rle` for the format.

    Returns:
        Where the next string begins, and the number of ones.
    """
    previous, one_before, two_before, ones = 0, 0, 0, 0
    for i in range(len(edges) + 1):
        edge = edges[i] if i < len(edges) else pixels
        count = edge - previous
        if i == len(edges) and count == 0 and i > 0:
            break
        rest = count - two_before if i > 2 else count
        more = True
        while more:
            group = rest & 31
            rest >>= 5
            more = rest != -1 if group & 16 else rest != 0
            out[at] = (group | 32 if more else group) + 48
            at += 1
        if i & 1:
            ones += count
        previous, two_before, one_before = edge, one_before, count
    return at, ones
