"""What a checkpoint family is: how to recognise its keys and how to convert it to our layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from model.checkpoints.families.key_mapping import State
from model.preset import Preset


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A checkpoint file that another framework wrote.

    Attributes:
        filename: name of the file without its folder.
        state: tensors by their names in the file.
        training_metadata: what the training framework stored next to the tensors ("meta" of mmdetection).
        read_sibling: reads the first of some files that exists in the same folder, and returns its name and
            content, or None.
    """

    filename: str
    state: State
    training_metadata: dict[str, Any]
    read_sibling: Callable[[Sequence[str]], tuple[str, bytes] | None]


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """A foreign checkpoint in our layout.

    Attributes:
        state: tensors under torchvision's names.
        preset: architecture and conventions.
        provenance: the family and the conventions that the conversion assumed, for the user to see.
    """

    state: State
    preset: Preset
    provenance: dict[str, Any]


@dataclass(frozen=True)
class CheckpointFamily:
    """A family of checkpoints. `model.checkpoints.checkpoint.FAMILIES` lists all of them.

    Attributes:
        name: as users know it.
        recognises: whether a state dict has the family's keys.
        convert: brings a checkpoint into our layout. Raises `WeightsError` for what the network cannot hold.
    """

    name: str
    recognises: Callable[[State], bool]
    convert: Callable[[ForeignCheckpoint], ConvertedCheckpoint]
