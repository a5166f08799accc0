"""The options of `maskfleet segment`: what each is called, and says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml

CONFIGURABLE = (
    "weights",
    "min_score",
    "max_detections",
    "workers",
    "gpus_per_worker",
    "batch_size",
    "precision",
    "limit",
    "glob",
    "column",
    "max_pixels",
    "tile",
    "overlap",
    "nvjpeg",
    "compile",
    "max_error_rate",
    "retry_errors",
    "set",
)


def configured(context: typer.Context, path: Path | None) -> Path | None:
    """Makes the options of a YAML file the defaults of this call, to be checked like the command line's."""
    if path is None:
        return None
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise typer.BadParameter(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise typer.BadParameter(f"{path} is not a mapping of options")
    content = {str(key).replace("-", "_"): value for key, value in content.items()}
    if unknown := sorted(content.keys() - set(CONFIGURABLE)):
        raise typer.BadParameter(f"{path}: unknown option {', '.join(unknown)}; known: {', '.join(CONFIGURABLE)}")
    if (fields := content.pop("set", None)) is not None:
        if not isinstance(fields, dict):
            raise typer.BadParameter(f"{path}: set is a mapping of preset fields, such as {{min_size: 512}}")
        content["preset"] = [f"{key}={json.dumps(value)}" for key, value in fields.items()]
    if "compile" in content:  # the function's name for it
        content["compiled"] = content.pop("compile")
    context.default_map = content
    return path


Places = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT... OUTPUT",
        help="One or more INPUTs: image files, folders or prefixes (s3://bucket/plates), globs, shards "
        "(s3://bucket/shard-{000..127}.tar, .tgz, .tar.gz, .parquet), or manifests of addresses (.txt, .csv, "
        ".jsonl, .parquet). Last, the OUTPUT folder or prefix.",
        show_default=False,
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="A shipped name (see `maskfleet weights list`), coco or coco-v2 (fetched from torchvision), or the "
        "path or URI of a checkpoint of torchvision, detectron2 or mmdetection."
    ),
]
MinScore = Annotated[float | None, typer.Option(min=0, max=1, help="Drop instances below this score.")]
MaxDetections = Annotated[int | None, typer.Option(min=1, help="Most instances kept in an image.")]
Workers = Annotated[
    str | None, typer.Option(metavar="N | MIN,MAX", help="Segment actors. Default: as many as fit the cluster.")
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="GPUs of an actor; 0.5 packs two on one, 0 computes on CPUs. Default: 1 where there are GPUs, else 0. "
        "A cluster that has no node with so many, or no node at all yet, is asked to start one.",
    ),
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images an actor takes at once.")]
Precision = Annotated[str, typer.Option(metavar="auto|fp32|bf16|fp16", help="Arithmetic of the layers.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Do at most this many images now.")]
Glob = Annotated[
    str | None,
    typer.Option(help="Only images whose file name matches, such as '*_w1.tif'; in a shard, the member's name."),
]
Column = Annotated[
    str | None,
    typer.Option(help="The column of images in Parquet files, or of addresses in manifests. Default: the only one."),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Larger images become error rows. Default: 200 million, with --tile 1,000 million.",
        show_default=False,
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(
        min=32,
        metavar="SIZE",
        help="Cut images larger than this into tiles of SIZE pixels, each scaled and seen like an image of its "
        "own: choose about the size of the images that the weights were trained on (256 for nuclei). Objects that "
        "several tiles saw are made one. --max-detections is then of a tile.",
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Pixels that neighbouring tiles share: as large as the objects, so that each is whole in some tile. "
        "Default: a quarter of SIZE.",
        show_default=False,
    ),
]
Nvjpeg = Annotated[
    bool,
    typer.Option("--nvjpeg", help="Decode JPEG files on the GPU; grey levels may differ by a few from a CPU's."),
]
Compiled = Annotated[
    bool, typer.Option("--compile", help="Compile the network for each input shape, up to 32 (torch.compile).")
]
MaxErrorRate = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Exit with status 3 if a larger share of images failed; stop as soon as that is plain.",
    ),
]
RetryErrors = Annotated[bool, typer.Option("--retry-errors", help="Also do the images again whose row is an error.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Where OUTPUT holds results of other weights or settings, move them to OUTPUT/replaced and begin "
        "anew. Asks first.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Answer the question of --overwrite.")]
SetFields = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="A field of the weights' preset, for checkpoints whose settings cannot be read off: "
        "min_size=512, anchor_sizes=[[16],[32],[64],[128],[256]]. May be given several times.",
    ),
]
Plan = Annotated[
    bool,
    typer.Option(
        "--plan",
        help="Say how much the same command without --plan would do and, from a sample, how long that may take; "
        "OUTPUT stays as it is.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="A YAML file of these options by name; the command line goes before it.",
        exists=True,
        dir_okay=False,
        is_eager=True,
        callback=configured,
    ),
]
