"""The options of a job.

Each field of `Options` that is made by `option` is an option of `maskfleet segment` and a key of its --config file.
The command line, the config file and the record of a run are made from these fields. All of them are in one file, so
that a new option is one new field here and nothing elsewhere. This module imports no large library, because the
command line needs it to print its help.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pipeline.errors import OptionError

if TYPE_CHECKING:
    from model.masks.tile_grid import Tiling
    from pipeline.storage import Place

# A decoded image takes 4 bytes per pixel.
MAX_PIXELS, MAX_PIXELS_TILED = 200_000_000, 1_000_000_000
MIN_GPU_SHARE = 0.01  # more than a hundred actors on one GPU is a typing error

# Groups of options in the help, in this order.
NETWORK, READ, RUN, AGAIN = "Which network", "What to read", "How to run", "What to do again"


@dataclass(frozen=True)
class OptionInfo:
    """What a user sees of an option.

    Attributes:
        group: the heading in the help.
        help: one or two sentences.
        name: on the command line (`--name`) and in a config file; None: the field's name.
        metavar: what stands for the value in the help.
        min: the smallest number allowed.
        max: the largest number allowed.
        parse: reads the field's value from text; raises `OptionError`.
        in_config: whether a config file may set it.
        recorded_as: the attribute of `Options` that a run's record shows instead; None: the field itself.
    """

    group: str
    help: str
    name: str | None = None
    metavar: str | None = None
    min: float | None = None
    max: float | None = None
    parse: Callable[[str], Any] | None = None
    in_config: bool = True
    recorded_as: str | None = None


def option(default: Any, group: str, text: str, **details: Any) -> Any:
    """Declares a field of `Options` that is an option of the command line.

    Args:
        default: the default value.
        group: the heading in the help.
        text: the help.
        details: other attributes of `OptionInfo`.
    """
    return field(default=default, metadata={"option": OptionInfo(group, text, **details)})


def parse_workers(text: str) -> tuple[int, int]:
    """Reads `4` or `1,8` as (min, max) actors.

    Raises:
        OptionError: the text is neither, or min is larger than max.
    """
    try:
        numbers = [int(n) for n in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not 1 <= numbers[0] <= numbers[-1]:
        raise OptionError(f"--workers {text}: give a number or MIN,MAX")
    return numbers[0], numbers[-1]


@dataclass(frozen=True)
class Options:
    """What a user asks of a job.

    Attributes:
        inputs: image files, folders, prefixes, globs, shards or manifests.
        output: the folder or prefix to write to.

    Raises:
        OptionError: a value cannot be used, or two do not fit together.
    """

    inputs: tuple[Place, ...]
    output: Place

    weights: str = option(
        "nuclei",
        NETWORK,
        "A shipped checkpoint (see `maskfleet weights list`), coco or coco-v2 (downloaded from torchvision), or the "
        "path or URI of a torchvision, detectron2 or mmdetection checkpoint.",
        metavar="NAME|PATH|URI",
    )
    min_score: float | None = option(
        None,
        NETWORK,
        "Drop instances that score lower. Default: what the checkpoint says.",
        metavar="SCORE",
        min=0,
        max=1,
        recorded_as="overrides",
    )
    max_detections: int | None = option(
        None,
        NETWORK,
        "Keep at most this many instances per image, best scores first; with --tile, per tile. Default: what the "
        "checkpoint says.",
        metavar="N",
        min=1,
        recorded_as="overrides",
    )
    precision: str = option(
        "auto",
        NETWORK,
        "Number format of the layers. auto is bf16 where the hardware computes in it, else fp16 on a GPU and fp32 on a "
        "CPU. fp32 gives exactly torchvision's results.",
        metavar="auto|fp32|bf16|fp16",
    )
    preset_fields: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "option": OptionInfo(
                NETWORK,
                "Change a setting of the checkpoint that its file lacks or has wrong, such as min_size=512 or "
                "mean=[0.5,0.5,0.5]. Repeat it for several settings. `maskfleet weights show` lists them.",
                name="set",
                metavar="FIELD=VALUE",
                recorded_as="overrides",
            )
        },
    )

    limit: int | None = option(
        None, READ, "Segment at most this many images now. The next run continues with the others.", metavar="N", min=1
    )
    pattern: str | None = option(
        None,
        READ,
        "Read only images whose file name matches, such as '*_w1.tif'. In a shard, this is the member's name.",
        name="glob",
    )
    column: str | None = option(
        None,
        READ,
        "The column that holds images in Parquet files, or addresses in manifests. Default: the only one that can.",
    )
    tile: int | None = option(
        None,
        READ,
        "Cut images larger than this into tiles of SIZE pixels and merge objects that several tiles found. Each tile "
        "is scaled like an image, so choose the size of the images that the checkpoint was trained on (nuclei: 256).",
        metavar="SIZE",
        min=32,
        recorded_as="tiling",
    )
    overlap: int | None = option(
        None,
        READ,
        "Pixels that neighbouring tiles share. Make it as large as the objects, so that some tile holds each one "
        "whole. Default: a quarter of SIZE.",
        metavar="N",
        min=0,
        recorded_as="tiling",
    )
    max_pixels: int | None = option(
        None,
        READ,
        "Do not decode images with more pixels; they become error rows. Default: 200 million, with --tile 1,000 "
        "million.",
        metavar="N",
        min=1,
    )

    workers: tuple[int, int] | None = option(
        None,
        RUN,
        "Number of actors that run the network. Default: as many as fit into the cluster.",
        metavar="N | MIN,MAX",
        parse=parse_workers,
    )
    gpus_per_worker: float | None = option(
        None,
        RUN,
        "GPUs for each actor: 0.5 puts two actors on one GPU, 0 runs on CPUs. Default: 1 if there are GPUs, else 0. "
        "An autoscaling cluster that has no such node starts one.",
        metavar="N",
        min=0,
    )
    batch_size: int | None = option(
        None, RUN, "Most images in a batch. Default: 16 on a GPU, 8 on a CPU.", metavar="N", min=1
    )
    compiled: bool = option(
        False, RUN, "Compile the network with torch.compile, for up to 32 input shapes.", name="compile"
    )
    nvjpeg: bool = option(
        False, RUN, "Decode JPEG files on the GPU. Grey values may differ from the CPU's by a few levels."
    )
    max_error_rate: float | None = option(
        None,
        RUN,
        "End with exit status 3 if a larger share of images fails, such as 0.05. Stops early once that is certain.",
        metavar="SHARE",
        min=0,
        max=1,
    )

    retry_errors: bool = option(False, AGAIN, "Also segment the images again whose row is an error.")
    overwrite: bool = option(
        False,
        AGAIN,
        "If OUTPUT holds results of other weights or settings, move them to OUTPUT/replaced and start again. Asks "
        "first.",
        in_config=False,
    )

    def __post_init__(self) -> None:
        if gpus := self.gpus_per_worker:
            if gpus < MIN_GPU_SHARE:
                raise OptionError(f"--gpus-per-worker {gpus:g}: give 0 to compute on CPUs, or {MIN_GPU_SHARE} or more")
            if gpus > 1 and gpus != int(gpus):
                raise OptionError(f"--gpus-per-worker {gpus:g}: more than one GPU must be a whole number")
        if self.overlap is not None:
            if self.tile is None:
                raise OptionError("--overlap needs --tile SIZE: it is the overlap of the tiles")
            if self.overlap >= self.tile:
                raise OptionError(f"--overlap {self.overlap} must be smaller than the tiles of {self.tile} pixels")

    @property
    def overrides(self) -> dict[str, Any]:
        """Fields of the checkpoint's preset to replace; --min-score and --max-detections win over --set."""
        named = {"min_score": self.min_score, "max_detections": self.max_detections}
        return self.preset_fields | {k: v for k, v in named.items() if v is not None}

    @property
    def tiling(self) -> Tiling | None:
        """How large images are cut; None: not at all."""
        from model.masks.tile_grid import Tiling

        if self.tile is None:
            return None
        return Tiling(self.tile, self.tile // 4 if self.overlap is None else self.overlap)

    @property
    def pixel_limit(self) -> int:
        """The most pixels an image may have."""
        if self.max_pixels is not None:
            return self.max_pixels
        return MAX_PIXELS if self.tile is None else MAX_PIXELS_TILED

    def plain(self) -> dict[str, Any]:
        """Returns the options as JSON. Leaves out storage options, which may hold credentials."""
        from pipeline.storage import redacted

        infos = {f.name: f.metadata["option"] for f in fields(self) if "option" in f.metadata}
        names = dict.fromkeys(info.recorded_as or name for name, info in infos.items())
        return {name: getattr(self, name) for name in names} | {
            "inputs": [redacted(p.url) for p in self.inputs],
            "output": redacted(self.output.url),
            "weights": redacted(self.weights),
            "tiling": asdict(self.tiling) if self.tiling else None,
        }
