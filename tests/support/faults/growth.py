"""Images that keep arriving while a job is broken: loose, in shards, damaged, cut off, stored anew in another order."""

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


class Deck(Generic[T]):
    """Some things in random order, and again in another when all have come up: none is missing for long."""

    def __init__(self, things: Sequence[T], chance: random.Random) -> None:
        self._things, self._random, self._left = things, chance, list[T]()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self._left = self._left or self._random.sample(self._things, len(self._things))
        return self._left.pop()

    def put_back(self, thing: T) -> None:
        """Lets one that was drawn come up again after the others."""
        self._left.insert(0, thing)


class Growth:
    """What lies below a prefix of a store and what is expected of it.

    Args:
        fs: of the store.
        prefix: `bucket/folder`.
        sources: images, which come again and again under other names.
        damaged: damaged images by name.

    Attributes:
        inputs: the addresses of all that must have a row.
        bad: of those the ones that cannot be segmented, and how their error begins.
        unsure: of those the damaged ones, which may be readable or not.
    """

    def __init__(
        self, fs: S3FileSystem, prefix: str, sources: Sequence[Path], damaged: dict[str, bytes], chance: random.Random
    ) -> None:
        self._fs, self._prefix, self._sources, self._random = fs, prefix, sources, chance
        self._damaged = list(damaged.items())
        self._shards: dict[str, list[tuple[str, Path]]] = {}
        self._kinds = Deck([self._loose, self._shard, self._cut_shard], chance)
        self.inputs: list[str] = []
        self.bad: dict[str, str] = {}
        self.unsure: set[str] = set()

    @classmethod
    def of_shipped(cls, fs: S3FileSystem, prefix: str, sources: Sequence[Path], photos: Path, seed: int) -> Growth:
        """With damaged images made from the sources and photographs by the seed."""
        return cls(fs, prefix, sources, damaged_images(sources[0].parent, photos, seed=seed), random.Random(seed))

    def more(self) -> int:
        """Some more, the bad among them; how many there are now."""
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
        """A shard's members in the other order, so that none lies where the catalog says; whether there is one."""
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
        """One whose end is missing: the shard is a row, and so is the member that is not whole."""
        key += ".tar"
        whole = shard(members)
        data = whole[: self._random.randrange(len(whole) // 3, len(whole) - 30_000)]
        self._fs.pipe_file(key, data)
        headers, complete = whole_members(data)
        self.inputs += [f"s3://{key}", *(f"s3://{key}#{name}" for name in headers)]
        self.bad |= {f"s3://{key}": "DamagedShard: "} | {f"s3://{key}#{n}": "" for n in headers if n not in complete}
