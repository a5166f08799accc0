"""Images that keep arriving while a job runs: loose, in shards, damaged, cut off, replaced in another order."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from s3fs import S3FileSystem

from support.faults.fuzz import damaged_images
from support.faults.images import names, shard, whole_members

BAD = {"empty.png": (b"", "EmptyFile: "), "page.png": (b"<html>404</html>", "NotAnImage: ")}
DAMAGED = 2  # of each arrival
T = TypeVar("T")


class ShuffledCycle(Generic[T]):
    """Draws items in random order, each once before any comes a second time."""

    def __init__(self, items: Sequence[T], chance: random.Random) -> None:
        self._items, self._random, self._left = items, chance, list[T]()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self._left = self._left or self._random.sample(self._items, len(self._items))
        return self._left.pop()

    def put_back(self, item: T) -> None:
        """Returns an item that was drawn; it is drawn again after the others."""
        self._left.insert(0, item)


class GrowingInput:
    """Images below a prefix of a store, and what a job must make of them.

    Args:
        fs: of the store.
        prefix: `bucket/folder`.
        sources: images, which are stored again and again under other names.
        damaged: damaged images by name.

    Attributes:
        inputs: the addresses of all images that must have a row.
        bad: those of them that cannot be segmented, and how their error begins.
        unsure: those that are damaged at random, and may be readable or not.
    """

    def __init__(
        self, fs: S3FileSystem, prefix: str, sources: Sequence[Path], damaged: dict[str, bytes], chance: random.Random
    ) -> None:
        self._fs, self._prefix, self._sources, self._random = fs, prefix, sources, chance
        self._damaged = list(damaged.items())
        self._shards: dict[str, list[tuple[str, Path]]] = {}
        self._kinds = ShuffledCycle([self._loose, self._shard, self._cut_shard], chance)
        self.inputs: list[str] = []
        self.bad: dict[str, str] = {}
        self.unsure: set[str] = set()

    @classmethod
    def of_shipped(
        cls, fs: S3FileSystem, prefix: str, sources: Sequence[Path], photos: Path, seed: int
    ) -> GrowingInput:
        """Makes damaged images from the sources and photographs, by the seed."""
        return cls(fs, prefix, sources, damaged_images(sources[0].parent, photos, seed=seed), random.Random(seed))

    def more(self) -> int:
        """Adds images, some of them bad; returns how many there are now."""
        start, count = len(self.inputs), self._random.randint(30, 70)
        members = [(n, self._sources[i % len(self._sources)]) for i, n in enumerate(names(self._sources, count))]
        next(self._kinds)(f"{self._prefix}/{start:06d}", members)
        name, (content, error) = self._random.choice(list(BAD.items()))
        self.bad[self._put(f"{start:06d}-{name}", content)] = error
        for _ in range(DAMAGED):
            name, content = self._random.choice(self._damaged)
            self.unsure.add(self._put(f"{len(self.inputs):06d}-{name}", content))
        return len(self.inputs)

    def replace_a_shard(self) -> bool:
        """Reverses a shard's members, so that none is where the catalog says; returns whether there is a shard."""
        if self._shards:
            key = self._random.choice(list(self._shards))
            self._shards[key].reverse()
            self._fs.pipe_file(key, shard(self._shards[key]))
        return bool(self._shards)

    def _put(self, name: str, content: bytes) -> str:
        self._fs.pipe_file(f"{self._prefix}/{name}", content)
        self.inputs.append(f"s3://{self._prefix}/{name}")
        return self.inputs[-1]

    def _loose(self, key: str, members: list[tuple[str, Path]]) -> None:
        for name, path in members:
            self._fs.pipe_file(f"{key}/{name}", path.read_bytes())
        self.inputs += [f"s3://{key}/{name}" for name, _ in members]

    def _shard(self, key: str, members: list[tuple[str, Path]]) -> None:
        key += ".tar"
        self._fs.pipe_file(key, shard(members))
        self.inputs += [f"s3://{key}#{name}" for name, _ in members]
        self._shards[key] = members

    def _cut_shard(self, key: str, members: list[tuple[str, Path]]) -> None:
        """Stores a shard without its end: the shard gets an error row, and so does the member that is cut off."""
        key += ".tar"
        whole = shard(members)
        data = whole[: self._random.randrange(len(whole) // 3, len(whole) - 30_000)]
        self._fs.pipe_file(key, data)
        headers, complete = whole_members(data)
        self.inputs += [f"s3://{key}", *(f"s3://{key}#{name}" for name in headers)]
        self.bad |= {f"s3://{key}": "DamagedShard: "} | {f"s3://{key}#{n}": "" for n in headers if n not in complete}
