"""Containers of images, as the catalog finds them."""

from __future__ import annotations

from typing import Any

from pipeline.catalog.inputs import Container, find_containers


def containers(*arguments: Any, **options: Any) -> list[Container]:
    """All containers, each once, by address."""
    found = {c.url: c for batch in find_containers(*arguments, **options) for c in batch}
    return sorted(found.values(), key=lambda c: c.url)
