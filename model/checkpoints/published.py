"""torchvision's published COCO weights: fetched once, checked, kept in torch's own cache folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import torch

from model.errors import WeightsError

PUBLISHED = {
    "coco": "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    "coco-v2": "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
}
CHUNK = 1 << 20


def fetch_published(name: str) -> Path:
    """The local file of published weights, downloaded if it is not in the cache.

    The cache is where torchvision keeps them too: `$TORCH_HOME/hub/checkpoints`, by default below
    `~/.cache/torch`. The first eight hex digits of the file's sha256 are in its name, as PyTorch publishes it.

    Raises:
        WeightsError: no connection, or the file is not the published one.
    """
    url = PUBLISHED[name]
    filename = url.rpartition("/")[2]
    target = Path(torch.hub.get_dir()) / "checkpoints" / filename
    if target.is_file() and _matches(target):
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
                if not _matches(path, filename):
                    raise WeightsError(f"what {url} sent is not the published file (its sha256 differs): {remedy}")
                os.replace(path, target)
            finally:
                path.unlink(missing_ok=True)
    except (OSError, urllib.error.URLError) as error:
        raise WeightsError(f"cannot fetch {name} ({error}): {remedy}") from None
    return target


def _matches(path: Path, name: str | None = None) -> bool:
    """Whether a file's sha256 begins with the digits in its name."""
    digits = re.search(r"-([0-9a-f]{8,})\.", name or path.name)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digits is not None and digest.hexdigest().startswith(digits[1])
