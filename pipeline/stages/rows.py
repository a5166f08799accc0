"""The rows that travel between the stages: one class for each boundary, from which its Arrow schema follows.

A new column is one line in its class. Tensors are stored as their bytes beside their shape. They are read in place,
because copying the pixels of an image takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Self, get_type_hints

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor


@dataclass(frozen=True)
class Column:
    """A column of plain values of an Arrow type."""

    type: pa.DataType

    def fields(self, name: str) -> list[pa.Field]:
        """The Arrow fields that store the column."""
        return [pa.field(name, self.type)]

    def write(self, values: Sequence[Any]) -> list[pa.Array]:
        """The Arrow arrays of `fields`."""
        return [pa.array(values, self.type)]

    def read(self, table: pa.Table, name: str) -> Iterable[Any]:
        """The value of each row. Bytes are copied one row at a time, not all at once."""
        if self.type == pa.large_binary():
            return (None if buffer is None else buffer.to_pybytes() for buffer in in_place(table[name]))
        return table[name].to_pylist()


@dataclass(frozen=True)
class TensorColumn(Column):
    """A column of tensors on the CPU whose elements have an Arrow type. A second field stores their shapes."""

    def fields(self, name: str) -> list[pa.Field]:
        """The Arrow fields that store the column."""
        return [pa.field(name, pa.large_binary()), pa.field(f"{name}_shape", pa.list_(pa.int32()))]

    def write(self, values: Sequence[Tensor | None]) -> list[pa.Array]:
        """The Arrow arrays of `fields`. Each tensor is copied once, and once more if it is not contiguous."""
        data = [None if v is None else v.contiguous().flatten().numpy().view(np.uint8).data for v in values]
        shapes = [None if v is None else list(v.shape) for v in values]
        return [pa.array(data, pa.large_binary()), pa.array(shapes, pa.list_(pa.int32()))]

    def read(self, table: pa.Table, name: str) -> Iterable[Tensor | None]:
        """The tensor of each row. It shares the table's memory: do not write to it."""
        for buffer, shape in zip(in_place(table[name]), table[f"{name}_shape"].to_pylist(), strict=True):
            yield None if buffer is None else self._tensor(buffer, shape)

    def _tensor(self, buffer: pa.Buffer, shape: list[int]) -> Tensor:
        size = buffer.size // (self.type.bit_width // 8)
        return torch.from_dlpack(pa.Array.from_buffers(self.type, size, [None, buffer])).view(shape)


@dataclass(frozen=True)
class Row:
    """One image between two stages. Each field is a column.

    Attributes:
        error: why the image failed, as `kind: reason`; None if it has not.
    """

    image_id: Annotated[int, Column(pa.int64())]
    uri: Annotated[str, Column(pa.string())]
    error: Annotated[str | None, Column(pa.string())]

    @classmethod
    def schema(cls) -> pa.Schema:
        """The Arrow schema of a table of these rows."""
        return pa.schema([field for name, column in _columns(cls).items() for field in column.fields(name)])

    @classmethod
    def to_table(cls, rows: Sequence[Self]) -> pa.Table:
        """Writes rows to a table."""
        columns = _columns(cls).items()
        arrays = [array for name, column in columns for array in column.write([getattr(row, name) for row in rows])]
        return pa.Table.from_arrays(arrays, schema=cls.schema())

    @classmethod
    def from_table(cls, table: pa.Table) -> Iterator[Self]:
        """Reads the rows of a table one by one."""
        values = [column.read(table, name) for name, column in _columns(cls).items()]
        return (cls(*row) for row in zip(*values, strict=True))


@dataclass(frozen=True)
class FetchedImage(Row):
    """An image file. The schema is that of `pipeline.storage.original_bytes`."""

    data: Annotated[bytes | None, Column(pa.large_binary())] = None


@dataclass(frozen=True)
class SizedRow(Row):
    """An image whose header has been read.

    Attributes:
        width: of the stored image, in pixels; None if its header was never read.
        height: of the stored image, in pixels.
    """

    width: Annotated[int | None, Column(pa.int32())] = None
    height: Annotated[int | None, Column(pa.int32())] = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the stored image, whose header has been read."""
        assert self.height is not None
        assert self.width is not None
        return self.height, self.width


@dataclass(frozen=True)
class DecodedImage(SizedRow):
    """An image that is ready for the network: its pixels, or the file if the actor decodes it.

    Attributes:
        pixels: uint8 (rows, columns, 3) RGB, no larger than the network's input.
        encoded: the file of an image that the actor cuts into tiles or decodes on its GPU.
    """

    pixels: Annotated[Tensor | None, TensorColumn(pa.uint8())] = None
    encoded: Annotated[bytes | None, Column(pa.large_binary())] = None


@dataclass(frozen=True)
class SegmentedImage(SizedRow):
    """The N instances of an image, best first.

    Attributes:
        boxes: float32 (N, 4) xyxy, pixels of the stored image.
        scores: float32 (N,).
        labels: int64 (N,), the network's output index: 1 is the first class of the preset.
        masks: float32 (N, 28, 28), probabilities over the box.
        tiles: int64 (N,), the tile of each instance; None if the image was not cut into tiles.
    """

    boxes: Annotated[Tensor | None, TensorColumn(pa.float32())] = None
    scores: Annotated[Tensor | None, TensorColumn(pa.float32())] = None
    labels: Annotated[Tensor | None, TensorColumn(pa.int64())] = None
    masks: Annotated[Tensor | None, TensorColumn(pa.float32())] = None
    tiles: Annotated[Tensor | None, TensorColumn(pa.int64())] = None

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Boxes, scores, labels and masks of an image that has been segmented."""
        boxes, scores, labels, masks = self.boxes, self.scores, self.labels, self.masks
        assert boxes is not None and scores is not None and labels is not None and masks is not None  # noqa: PT018
        return boxes.numpy(), scores.numpy(), labels.numpy(), masks.numpy()


def _columns(row_class: type[Row]) -> dict[str, Column]:
    """The columns of a class of rows by name, in order."""
    hints = get_type_hints(row_class, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in fields(row_class)}


def in_place(values: pa.ChunkedArray) -> Iterator[pa.Buffer | None]:
    """Yields the memory of each large binary value without copying it; None for a null."""
    assert values.type == pa.large_binary()
    for chunk in filter(len, values.chunks):
        _, offsets, data = chunk.buffers()
        stops = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        for start, stop, valid in zip(stops, stops[1:], chunk.is_valid(), strict=False):
            yield data.slice(start, stop - start) if valid.as_py() else None
