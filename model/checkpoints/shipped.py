"""The checkpoints that come with the package."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "weights"


def shipped_names() -> list[str]:
    """Returns the names of the shipped checkpoints, sorted."""
    return sorted(p.stem for p in SHIPPED.glob("*.safetensors"))
