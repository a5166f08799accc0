"""The stage that decodes: image bytes in, pixels no larger than the network wants them out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import torch

from model.layers.transform import shrink
from model.masks.tile_grid import Tiling
from model.preset import Preset
from pipeline.cluster.progress import Progress
from pipeline.images import ImageError, open_image, to_rgb
from pipeline.stages.quarantine import Quarantine, trusted
from pipeline.storage import one_line

DECODED = pa.schema(
    [
        ("image_id", pa.int64()),
        ("uri", pa.string()),
        ("error", pa.string()),
        ("width", pa.int32()),  # of the stored image
        ("height", pa.int32()),
        ("rows", pa.int32()),  # of the pixels here
        ("columns", pa.int32()),
        ("pixels", pa.large_binary()),  # uint8 (rows, columns, 3); null of an image to be cut into tiles
        ("encoded", pa.large_binary()),  # an image that the actor decodes, as stored
    ]
)


class Decode:
    """A batch of fetched rows in, blocks of decoded rows of bounded size out.

    An image that is to be cut into tiles passes as it is, its header read: decoded it would be the largest
    block of the job by far, and the actor wants a tile at a time. So does one that the actor's GPU is to decode.
    """

    def __init__(
        self,
        preset: Preset,
        max_pixels: int,
        tiling: Tiling | None,
        nvjpeg: bool,
        progress: Progress,
        quarantine: Quarantine,
        block: int,
    ) -> None:
        self.preset, self.max_pixels, self.tiling, self.nvjpeg = preset, max_pixels, tiling, nvjpeg
        self.progress, self.quarantine, self.block = progress, quarantine, block

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        torch.set_num_threads(1)  # many of these tasks run side by side
        waiting = batch.to_pylist()[::-1]
        with self.quarantine.batch("decode", batch["image_id"].to_pylist()) as suspected:
            alone = suspected or trusted
            while waiting:
                rows: list[dict[str, Any]] = []
                size = 0
                with self.progress.stage("decode") as passed:
                    while waiting and size < self.block:
                        row = waiting.pop()
                        with alone(row["image_id"]) as error:
                            rows.append(self._decode(row if error is None else row | {"error": error}))
                        size += len(rows[-1].get("pixels") or rows[-1].get("encoded") or b"")
                    passed["images"] = len(rows)
                yield pa.Table.from_pylist(rows, schema=DECODED)

    def _decode(self, row: dict[str, Any]) -> dict[str, Any]:
        done = {"image_id": row["image_id"], "uri": row["uri"], "error": row["error"]}
        if row["error"] is not None:
            return done
        try:
            image = open_image(row["data"], self.max_pixels)
            done |= {"width": image.width, "height": image.height}
            tiled = self.tiling and self.tiling.needed(image.height, image.width)
            if tiled or (self.nvjpeg and image.format == "JPEG" and image.mode in ("L", "RGB")):
                return done | {"encoded": row["data"]}
            pixels = shrink(torch.from_numpy(to_rgb(image)), self.preset).numpy()
        except ImageError as error:
            return done | {"error": str(error)}
        except (RuntimeError, MemoryError) as error:
            return done | {"error": f"DecodeError: {one_line(error)}"}
        return done | {"rows": pixels.shape[0], "columns": pixels.shape[1], "pixels": pixels.tobytes()}
