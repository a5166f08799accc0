"""Downloads torchvision's published COCO weights once, verifies them, and keeps them in PyTorch's cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from model.errors import WeightsError

PUBLISHED = {
    "coco": "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    "coco-v2": "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
}
CHUNK = 1 << 20  # bytes


def fetch_published(name: str) -> Path:
    """Returns the local file of published weights, and downloads it if it is not in the cache.

    The cache is the folder that torchvision uses too: `$TORCH_HOME/hub/checkpoints`, by default below
    `~/.cache/torch`. PyTorch puts the first eight hex digits of a file's sha256 in its name; they are verified.

    Args:
        name: a key of `PUBLISHED`.

    Raises:
        WeightsError: The download fails, or the file is not the published one.
    """
    import urllib.request

    import torch.hub

    url = PUBLISHED[name]
    filename = url.rpartition("/")[2]
    target = Path(torch.hub.get_dir()) / "checkpoints" / filename
    if target.is_file() and _has_digest_in_name(target, filename):
        return target
    remedy = f"download {url} on a machine with internet and give --weights the path of the file"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as part:
            path = Path(part.name)
            try:
                print(f"fetching {filename} to {target.parent}", file=sys.stderr)
                with urllib.request.urlopen(url, timeout=60) as response:
                    shutil.copyfileobj(response, part, CHUNK)
                part.close()
                if not _has_digest_in_name(path, filename):
                    raise WeightsError(f"{url} did not send the published file (its sha256 differs): {remedy}")
                os.replace(path, target)
            finally:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"cannot fetch {name} ({error}): {remedy}") from None
    return target


def _has_digest_in_name(path: Path, filename: str) -> bool:
    """Whether the sha256 of a file begins with the digits in its published name."""
    digits = re.search(r"-([0-9a-f]{8,})\.", filename)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digits is not None and digest.hexdigest().startswith(digits[1])
