"""What a user names as INPUT, taken apart into containers: objects that hold one image or many."""

from __future__ import annotations

import fnmatch
import glob as globbing
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from pipeline.catalog import listing, manifest
from pipeline.errors import InputError
from pipeline.schema import printable
from pipeline.storage import Place, explain, place, version_of
from pipeline.storage.suffixes import INPUT_SUFFIXES, input_kind

T = TypeVar("T")
U = TypeVar("U")
BATCH = 2048  # containers handed over at once, addresses looked up at once
LOOKERS = 32  # threads that look addresses up
NAMED = 5  # missing ones in an error


@dataclass(frozen=True, slots=True)
class Container:
    """An object in a store that holds images.

    Attributes:
        url: its address.
        kind: "image" (the object is the image), "tar", "tgz" or "parquet".
        size: bytes; None of an image that a manifest names.
        version: changes when the content does; "" where nobody asked.
        error: why it cannot be read, if that is known already, `Class: reason`.
    """

    url: str
    kind: str
    size: int | None
    version: str
    error: str | None = None


def find_containers(
    inputs: Sequence[Place], output: Place, pattern: str | None = None, column: str | None = None
) -> Iterator[list[Container]]:
    """Every container under the inputs, in batches as they are listed; one named twice comes twice.

    Args:
        inputs: files, prefixes, globs with `*`, `?`, `[..]` and braces (`{000..127}`, `{a,b}`), or manifests.
        output: left out where it lies below an input.
        pattern: only images whose file name matches this glob, such as `*_w1.tif`; shards always come, for
            their members to be chosen by it.
        column: of a manifest that is a table, the column of addresses.

    Raises:
        InputError: an input does not exist (at once, if it names one thing), cannot be read, or holds no images.
    """
    for named in inputs:  # a misspelt one is found before the others are listed
        first = _paths(named)[0]
        if not globbing.has_magic(first) and _looked_up(named, [first])[0] is None:
            raise _missing(named, [first])
    return (batch for named in inputs for batch in _batches(_of_input(named, output, pattern, column), BATCH))


def file_name_pattern(pattern: str | None) -> re.Pattern[str]:
    """Matches the file names that a glob asks for; every name without one."""
    return re.compile(fnmatch.translate(pattern) if pattern else "(?s:.*)")


def _of_input(named: Place, output: Place, pattern: str | None, column: str | None) -> Iterator[Container]:
    """The containers one input names."""
    wanted = file_name_pattern(pattern)
    own = output.url.rstrip("/") + "/"
    some = False
    try:
        for url, container in _found(named, column):
            if container.kind == "image" and not wanted.fullmatch(url.rsplit("/", 1)[-1]):
                continue
            if not container.url.startswith(own):
                some = True
                yield container
    except InputError:
        raise
    except Exception as error:  # every store has errors of its own
        raise explain(named.url, error) from None
    if not some:
        matching = f" that match {pattern!r}" if pattern else ""
        raise InputError(f"{named.url}: no images or shards here{matching}; looked for {INPUT_SUFFIXES}")


def _found(named: Place, column: str | None) -> Iterator[tuple[str, Container]]:
    """(name, container) of everything at or below an input, and of what its manifests name."""
    is_manifest: bool | None = None
    for path, info in _listed(named):
        kind = input_kind(path)
        url = named.url_of(path)
        if info["type"] != "file":
            continue
        # Only where its own suffix is named: a prefix may hold a readme.txt or a table of labels.
        if (suffix := manifest.suffix(path)) and suffix == manifest.suffix(named.url.rstrip("*/")):
            if is_manifest is None:  # the tables of one input are alike
                is_manifest = manifest.names_images(Place(url, named.options), column)
            if is_manifest:
                yield from _of_manifest(Place(url, named.options), column)
                continue
        if kind:
            yield path, _container(url, kind, int(info["size"] or 0), version_of(info))


def _container(url: str, kind: str, size: int | None, version: str) -> Container:
    name = printable(url)
    error = None if name == url else "BadName: the name of the file or of its folder is not valid UTF-8: rename it"
    return Container(name, kind, size, version, error)


def _of_manifest(table: Place, column: str | None) -> Iterator[tuple[str, Container]]:
    """What a manifest names: images are not asked for, shards are."""
    stores: set[str] = set()
    for addresses in _batches(manifest.addresses(table, column), BATCH):
        places = [place(address, table.options) for address in addresses]
        shards = [p for p in places if input_kind(p.url) not in ("image", None)]
        sizes = dict(zip((p.url for p in shards), _sizes(shards), strict=True))
        for p in places:
            if p.protocol not in stores:
                _ = p.fs  # or a missing package would be found by a worker
                stores.add(p.protocol)
            size, version = sizes.get(p.url, (None, ""))
            kind = input_kind(p.url) if p.url in sizes else "image"
            yield p.url, _container(p.url, kind or "image", size, version)


def _sizes(shards: Sequence[Place]) -> Iterator[tuple[int, str]]:
    for shard, found in zip(shards, _each(lambda p: listing.info(p, p.path), shards), strict=True):
        if found is None:
            raise _missing(shard, [shard.path])
        yield int(found["size"] or 0), version_of(found)


def _listed(named: Place) -> Iterator[listing.Entry]:
    """(path, info) of every file that an input names, straight from the store."""
    for paths in _batches(_paths(named), BATCH):
        found = _looked_up(named, paths)
        gone = [p for p, info in zip(paths, found, strict=True) if info is None and not globbing.has_magic(p)]
        if gone:
            raise _missing(named, gone)
        for path, info in zip(paths, found, strict=True):
            if info is not None:
                yield from [(path, info)] if info["type"] == "file" else listing.below(named, path)
                continue
            some = False
            for entry in listing.matching(named, path):
                some = True
                yield entry
            if not some:
                raise InputError(f"{named.url}: nothing matches this pattern")


def _paths(named: Place) -> list[str]:
    """The paths an input names, braces written out; one that exists as it stands is meant as it stands."""
    try:
        if "{" not in named.path or listing.info(named, named.path) is not None:
            return [named.path]
    except InputError:
        raise
    except Exception as error:  # every store has errors of its own
        raise explain(named.url, error) from None
    return listing.braces(named.path)


def _looked_up(named: Place, paths: Sequence[str]) -> list[dict | None]:
    named.fs.invalidate_cache()
    try:
        return list(_each(lambda path: listing.info(named, path), paths))
    except Exception as error:  # every store has errors of its own
        raise explain(named.url, error) from None


def _each(function: Callable[[T], U], things: Iterable[T]) -> Iterator[U]:
    with ThreadPoolExecutor(LOOKERS) as pool:
        yield from pool.map(function, things)


def _missing(named: Place, paths: Sequence[str]) -> InputError:
    some = ", ".join(named.url_of(p) for p in paths[:NAMED])
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return InputError(f"{some}{more}: no such file, folder or prefix: check the spelling")


def _batches(things: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(things)
    while batch := list(islice(iterator, size)):
        yield batch
