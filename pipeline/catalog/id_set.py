"""Sets of image ids that need eight bytes per id."""

from __future__ import annotations

import numpy as np

NO_IDS = np.zeros(0, np.int64)


class IdSet:
    """A growing set of int64 ids.

    It holds a few sorted arrays. Each is at least twice as long as the next, so there are at most log2(n) of them,
    and adding n ids costs O(n log n) in all.

    Args:
        ids: int64, sorted, without duplicates: the first ids.
    """

    def __init__(self, ids: np.ndarray | None = None) -> None:
        self._levels = [ids] if ids is not None and len(ids) else []

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def contains(self, ids: np.ndarray) -> np.ndarray:
        """Returns bool: which of the ids are in the set."""
        found = np.zeros(len(ids), bool)
        for level in self._levels:
            found |= contains(level, ids)
        return found

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Adds ids (int64). Returns bool: which of them are new; of equal ids only the first."""
        first = np.zeros(len(ids), bool)
        first[np.unique(ids, return_index=True)[1]] = True
        new = first & ~self.contains(ids)
        if new.any():
            self._levels.append(np.sort(ids[new]))
        while len(self._levels) > 1 and len(self._levels[-2]) < 2 * len(self._levels[-1]):
            last = self._levels.pop()
            self._levels[-1] = np.sort(np.concatenate([self._levels[-1], last]), kind="stable")
        return new


def contains(sorted_ids: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Returns bool: which of the ids are in a sorted array. Unlike np.isin it does not copy that array."""
    if not len(sorted_ids):
        return np.zeros(len(ids), bool)
    at = np.searchsorted(sorted_ids, ids)
    return sorted_ids[np.minimum(at, len(sorted_ids) - 1)] == ids
