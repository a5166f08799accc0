"""Sets of image ids at eight bytes each."""

from __future__ import annotations

import numpy as np


class IdSet:
    """Ids that have been seen: sorted arrays, each at least twice as long as the next, so few of them."""

    def __init__(self, ids: np.ndarray | None = None) -> None:
        self._levels = [ids] if ids is not None and len(ids) else []

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def has(self, ids: np.ndarray) -> np.ndarray:
        """bool: which of the ids are in the set."""
        found = np.zeros(len(ids), bool)
        for level in self._levels:
            found |= contains(level, ids)
        return found

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Adds ids (int64); bool: which of them are new, the first of equal ones."""
        first = np.zeros(len(ids), bool)
        first[np.unique(ids, return_index=True)[1]] = True
        new = first & ~self.has(ids)
        if new.any():
            self._levels.append(np.sort(ids[new]))
        while len(self._levels) > 1 and len(self._levels[-2]) < 2 * len(self._levels[-1]):
            last = self._levels.pop()
            self._levels[-1] = np.sort(np.concatenate([self._levels[-1], last]), kind="stable")
        return new


def contains(sorted_ids: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """bool: which of the ids are in a sorted array; needs no memory of its size, as np.isin does."""
    if not len(sorted_ids):
        return np.zeros(len(ids), bool)
    at = np.searchsorted(sorted_ids, ids)
    return sorted_ids[np.minimum(at, len(sorted_ids) - 1)] == ids
