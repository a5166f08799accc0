"""Access to torchvision's operators that loads torchvision only when one is needed.

Loading torchvision takes about two seconds and 150 MB. The process that starts a job builds the network to
check a checkpoint, but never runs it, so it should not pay for that.
"""

from __future__ import annotations

from types import ModuleType


def torchvision_ops() -> ModuleType:
    """Returns the module `torchvision.ops`."""
    from torchvision import ops

    return ops
