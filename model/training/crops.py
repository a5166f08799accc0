"""Random crops of a COCO dataset with their instance masks, as training samples."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class CropOptions:
    """How crops are cut and augmented. Probabilities are 0..1."""

    size: int = 384  # side of the crop in pixels of the network's input
    min_size: int = 640  # resize rule at scale 1: the shorter side, and a limit for the longer side
    max_size: int = 1333
    scale: tuple[float, float] = (0.6, 1.5)  # range of the random factor on the resize rule
    invert: float = 0.2  # probability
    shuffle_channels: float = 0.2  # probability
    blur: float = 0.15  # probability
    noise: float = 0.15  # probability
    min_pixels: int = 6  # instances with fewer pixels in the crop are dropped


@dataclass(frozen=True)
class TrainingData:
    """A COCO dataset and how to sample it.

    Attributes:
        annotations: COCO instances file; polygons and RLE both work. Crowd regions are left out.
        images: folder of the images; a `file_name` is relative to it.
        crops: how crops are cut and augmented.
        balance: a key of the image records. Images with a rare value are drawn more often: the weight of an image
            is the inverse square root of its value's frequency. None draws all images equally often.
    """

    annotations: Path
    images: Path
    crops: CropOptions = CropOptions()
    balance: str | None = None


class RandomCrops(torch.utils.data.Dataset):
    """An endless supply of random crops as a dataset. The index only seeds the random numbers.

    Args:
        data: the images and how to sample them.
        length: number of crops in an epoch.
    """

    def __init__(self, data: TrainingData, length: int) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            self.coco = COCO(str(data.annotations))
        self.folder, self.options, self.length = data.images, data.crops, length
        self.records = [r for r in self.coco.dataset["images"] if self.coco.getAnnIds(r["id"], iscrowd=False)]
        self.labels = {c["id"]: i + 1 for i, c in enumerate(self.coco.dataset["categories"])}
        groups = [str(r.get(data.balance, "")) if data.balance else "" for r in self.records]
        weights = np.array([groups.count(g) ** -0.5 for g in groups])
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns a crop with at least one instance.

        Returns:
            The image, float32 (3, h, w) RGB in 0..1, and torchvision's target: boxes float32 (N, 4) xyxy in crop
            pixels, labels int64 (N,), masks uint8 (N, h, w).
        """
        rng = np.random.default_rng([torch.initial_seed() % 2**63, index])
        while True:
            record = self.records[rng.choice(len(self.records), p=self.weights)]
            image, target = self._crop(record, rng)
            if len(target["boxes"]):
                return self._augment_colour(image, rng), target

    def _crop(self, record: dict[str, Any], rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Cuts a random window out of an image, resizes it to the crop, and rotates or flips it."""
        o = self.options
        pixels = np.asarray(Image.open(self.folder / record["file_name"]).convert("RGB"))
        height, width = pixels.shape[:2]
        scale = min(o.min_size / min(height, width), o.max_size / max(height, width))
        scale *= float(np.exp(rng.uniform(*np.log(o.scale))))
        h, w = min(height, round(o.size / scale)), min(width, round(o.size / scale))
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        masks, labels = self._instances_in(record, (y, x, h, w))
        image = torch.from_numpy(pixels[y : y + h, x : x + w].copy()).permute(2, 0, 1).float() / 255

        size = (min(o.size, max(1, round(h * scale))), min(o.size, max(1, round(w * scale))))
        image = F.interpolate(image[None], size, mode="bilinear")[0]
        masks = (F.interpolate(masks[None].float(), size, mode="bilinear")[0] > 0.5) if len(masks) else masks.bool()
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        image, masks = (_rotate_and_flip(t, turns, flip) for t in (image, masks))
        return image, _target(masks, labels, o.min_pixels)

    def _instances_in(self, record: dict[str, Any], window: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
        """Returns masks uint8 (N, h, w) and labels int64 (N,) of the instances near a window (y, x, h, w)."""
        y, x, h, w = window
        masks, labels = [], []
        for a in self.coco.imgToAnns[record["id"]]:
            left, top, bw, bh = a["bbox"]
            if a.get("iscrowd") or left >= x + w or top >= y + h or left + bw <= x or top + bh <= y:
                continue
            masks.append(torch.from_numpy(self.coco.annToMask(a)[y : y + h, x : x + w]))
            labels.append(self.labels[a["category_id"]])
        stack = torch.stack(masks) if masks else torch.zeros(0, h, w, dtype=torch.uint8)
        return stack, torch.tensor(labels, dtype=torch.int64)

    def _augment_colour(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Varies brightness, contrast and gamma, and sometimes inverts, shuffles channels, blurs or adds noise."""
        o = self.options
        image = image.clamp(0, 1) ** float(np.exp(rng.uniform(-0.4, 0.4)))
        image = (image - image.mean()) * rng.uniform(0.7, 1.4) + image.mean() * rng.uniform(0.7, 1.3)
        if rng.random() < o.shuffle_channels:
            image = image[torch.from_numpy(rng.permutation(3))]
        if rng.random() < o.invert:
            image = 1 - image
        if rng.random() < o.blur:
            image = F.avg_pool2d(image[None], 3, 1, 1, count_include_pad=False)[0]
        if rng.random() < o.noise:
            image = image + torch.from_numpy(rng.normal(0, rng.uniform(0.005, 0.04), image.shape).astype(np.float32))
        return image.clamp(0, 1).float().contiguous()


def _rotate_and_flip(t: Tensor, turns: int, flip: bool) -> Tensor:
    t = torch.rot90(t, turns, (-2, -1))
    return (t.flip(-1) if flip else t).contiguous()


def _target(masks: Tensor, labels: Tensor, min_pixels: int) -> dict[str, Tensor]:
    """Builds torchvision's target from bool masks (N, h, w), without the instances that are too small."""
    keep = masks.flatten(1).sum(1) >= min_pixels if len(masks) else torch.zeros(0, dtype=torch.bool)
    masks, labels = masks[keep], labels[keep]
    boxes = torch.zeros(len(masks), 4)
    for axis, (low, high) in ((1, (0, 2)), (2, (1, 3))):
        profile = masks.any(axis).int()  # (N, w) for x, (N, h) for y
        boxes[:, low] = profile.argmax(1).float()
        boxes[:, high] = (profile.shape[1] - profile.flip(1).argmax(1)).float()
    return {"boxes": boxes, "labels": labels, "masks": masks.to(torch.uint8)}
