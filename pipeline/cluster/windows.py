"""How many images an actor takes at once (its window), and how large blocks are: both must fit the object store."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.cluster.nodes import Node

MIN_WINDOWS = 4  # windows of each actor in a job; with fewer, some actors wait while others work on their last window
# Windows that must fit in an actor's share of the object store: two wait, others are being made or passed on.
WINDOWS_IN_STORE = 8
MAX_BLOCK_BYTES = 32 << 20  # a task ends a block and starts the next after this many bytes
BLOCKS_IN_STORE = 64  # blocks that must fit in a node's object store; with fewer, Ray Data's own limits act too late


def images_in_store(nodes: list[Node], actors_of: Callable[[Node], int], image_bytes: int) -> int:
    """Images that fit in an actor's share of its node's object store: the minimum over the nodes.

    Args:
        actors_of: how many actors a node holds.
    """
    shares = [n["object_store_memory"] / actors for n in nodes if (actors := actors_of(n))]
    return int(min(shares) / image_bytes)


def window_size(largest: int, batch_size: int, images_per_turn: int, stored: int) -> int:
    """Images that an actor takes at once.

    The window is as large as possible, but small enough that it fits in memory and leaves work for the other actors.
    It holds at least one batch if memory allows.

    Args:
        largest: images; a larger window brings no speed-up.
        batch_size: images in a forward pass, at most.
        images_per_turn: the window at which every actor of the job gets `MIN_WINDOWS` windows.
        stored: images that fit in the actor's share of the object store.
    """
    return max(1, min(largest, max(images_per_turn, batch_size), stored // WINDOWS_IN_STORE))


def block_size(nodes: list[Node]) -> int:
    """Target bytes of a block. A node's object store must hold the blocks of all its tasks: the smallest decides."""
    stores = [n["object_store_memory"] for n in nodes if n.get("CPU") or n.get("GPU")]
    return min([MAX_BLOCK_BYTES, *(int(store / BLOCKS_IN_STORE) for store in stores)])
