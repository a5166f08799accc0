"""torchvision's operators, loaded when the first is called.

Loading torchvision takes some two seconds and 150 MB. The process that starts a job builds the network to check a
checkpoint against it, and never runs it.
"""

from __future__ import annotations

from types import ModuleType


def operators() -> ModuleType:
    """The module `torchvision.ops`."""
    from torchvision import ops

    return ops
