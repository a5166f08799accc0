"""Resolves the INPUTs of a job into containers: objects that hold one image or many."""

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
from pipeline.catalog.braces import expand_braces
from pipeline.errors import InputError
from pipeline.schema import printable
from pipeline.storage import Place, explain, place, version_of
from pipeline.storage.suffixes import INPUT_SUFFIXES, input_kind

T = TypeVar("T")
U = TypeVar("U")
BATCH = 2048  # containers in a batch, and paths checked in a batch
THREADS = 32  # paths checked at the same time
MISSING_SHOWN = 5  # missing paths that an error names


@dataclass(frozen=True, slots=True)
class Container:
    """An object in a store that holds images.

    Attributes:
        url: its address.
        kind: "image" (the object is the image), "tar", "tgz" or "parquet".
        size: bytes; None for an image that a manifest names.
        version: changes when the content changes; "" for an image that a manifest names.
        error: why it cannot be read, if that is already known: `kind: reason`.
    """

    url: str
    kind: str
    size: int | None
    version: str
    error: str | None = None


def find_containers(
    inputs: Sequence[Place], output: Place, pattern: str | None = None, column: str | None = None
) -> Iterator[list[Container]]:
    """Lists every container under the inputs. A container under two inputs occurs twice.

    Args:
        inputs: files, prefixes, globs with `*`, `?`, `[..]` and braces (`{000..127}`, `{a,b}`), or manifests.
        output: skipped if it is below an input.
        pattern: only images whose file name matches this glob, such as `*_w1.tif`. Shards are not filtered, since
            the glob applies to their members.
        column: column of addresses in a manifest that is a table.

    Returns:
        Containers in batches, while the inputs are being listed.

    Raises:
        InputError: an input does not exist (raised at once, unless it is a glob), cannot be read, or holds no images.
    """
    for named in inputs:  # so that a typing error in the last input is found before the first is listed
        first = _expand(named)[0]
        if not globbing.has_magic(first) and _check_paths(named, [first])[0] is None:
            raise _missing_error(named, [first])
    return (batch for named in inputs for batch in _batches(_input_containers(named, output, pattern, column), BATCH))


def file_name_pattern(pattern: str | None) -> re.Pattern[str]:
    """Compiles a glob for file names; None matches every name."""
    return re.compile(fnmatch.translate(pattern) if pattern else "(?s:.*)")


def _input_containers(named: Place, output: Place, pattern: str | None, column: str | None) -> Iterator[Container]:
    """Lists the containers of one input."""
    wanted = file_name_pattern(pattern)
    output_prefix = output.url.rstrip("/") + "/"
    found = False
    try:
        for path, container in _unfiltered_containers(named, column):
            if container.kind == "image" and not wanted.fullmatch(path.rsplit("/", 1)[-1]):
                continue
            if not container.url.startswith(output_prefix):
                found = True
                yield container
    except InputError:
        raise
    except Exception as error:  # the error type depends on the store
        raise explain(named.url, error) from None
    if not found:
        matching = f" that match {pattern!r}" if pattern else ""
        raise InputError(f"{named.url}: no images or shards here{matching}; looked for {INPUT_SUFFIXES}")


def _unfiltered_containers(named: Place, column: str | None) -> Iterator[tuple[str, Container]]:
    """(path, container) of everything at or below an input, and of everything that its manifests name."""
    is_manifest: bool | None = None
    for path, info in _list_input(named):
        if info["type"] != "file":
            continue
        kind, url = input_kind(path), named.url_of(path)
        # A file counts as a manifest only if the input names its suffix: a prefix may hold a readme.txt or labels.csv.
        suffix = manifest.manifest_suffix(path)
        if suffix and suffix == manifest.manifest_suffix(named.url.rstrip("*/")):
            if is_manifest is None:  # the tables of one input have the same columns
                is_manifest = manifest.lists_addresses(Place(url, named.options), column)
            if is_manifest:
                yield from _manifest_containers(Place(url, named.options), column)
                continue
        if kind:
            yield path, _container(url, kind, int(info["size"] or 0), version_of(info))


def _container(url: str, kind: str, size: int | None, version: str) -> Container:
    name = printable(url)
    error = None if name == url else "BadName: the name of the file or of its folder is not valid UTF-8: rename it"
    return Container(name, kind, size, version, error)


def _manifest_containers(table: Place, column: str | None) -> Iterator[tuple[str, Container]]:
    """(URL, container) of what a manifest names. The store is asked about shards only, not about images."""
    protocols: set[str] = set()
    for addresses in _batches(manifest.read_addresses(table, column), BATCH):
        places = [place(address, table.options) for address in addresses]
        shards = [p for p in places if input_kind(p.url) not in ("image", None)]
        sizes = dict(zip((p.url for p in shards), _shard_sizes(shards), strict=True))
        for p in places:
            if p.protocol not in protocols:
                _ = p.fs  # raises if the package for this store is missing; otherwise only a worker would notice
                protocols.add(p.protocol)
            size, version = sizes.get(p.url, (None, ""))
            kind = input_kind(p.url) if p.url in sizes else "image"
            yield p.url, _container(p.url, kind or "image", size, version)


def _shard_sizes(shards: Sequence[Place]) -> Iterator[tuple[int, str]]:
    """(bytes, version) of each shard."""
    for shard, info in zip(shards, _map_threads(lambda p: listing.entry_info(p, p.path), shards), strict=True):
        if info is None:
            raise _missing_error(shard, [shard.path])
        yield int(info["size"] or 0), version_of(info)


def _list_input(named: Place) -> Iterator[listing.Entry]:
    """(path, info) of every file that an input names, straight from the store."""
    for paths in _batches(_expand(named), BATCH):
        infos = _check_paths(named, paths)
        missing = [p for p, info in zip(paths, infos, strict=True) if info is None and not globbing.has_magic(p)]
        if missing:
            raise _missing_error(named, missing)
        for path, info in zip(paths, infos, strict=True):
            if info is not None:
                yield from [(path, info)] if info["type"] == "file" else listing.list_files(named, path)
                continue
            found = False
            for entry in listing.list_glob(named, path):
                found = True
                yield entry
            if not found:
                raise InputError(f"{named.url}: nothing matches this pattern")


def _expand(named: Place) -> list[str]:
    """The paths of an input with braces expanded. If a path with braces exists, it is taken literally."""
    try:
        if "{" not in named.path or listing.entry_info(named, named.path) is not None:
            return [named.path]
    except InputError:
        raise
    except Exception as error:  # the error type depends on the store
        raise explain(named.url, error) from None
    return expand_braces(named.path)


def _check_paths(named: Place, paths: Sequence[str]) -> list[dict | None]:
    """What the store says of each path; None if it does not exist."""
    named.fs.invalidate_cache()
    try:
        return list(_map_threads(lambda path: listing.entry_info(named, path), paths))
    except Exception as error:  # the error type depends on the store
        raise explain(named.url, error) from None


def _map_threads(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(function, items)


def _missing_error(named: Place, paths: Sequence[str]) -> InputError:
    shown = ", ".join(named.url_of(p) for p in paths[:MISSING_SHOWN])
    more = f" and {len(paths) - MISSING_SHOWN} more" if len(paths) > MISSING_SHOWN else ""
    return InputError(f"{shown}{more}: no such file, folder or prefix: check the spelling")


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
