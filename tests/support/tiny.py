"""A Mask R-CNN of basic blocks that detects without training and runs in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model import Preset
from model.checkpoints.save import write_checkpoint
from model.training.calibration import calibrate
from model.training.network import build_torchvision

TINY = Preset(  # nothing is left at its default
    name="tiny",
    blocks=(1, 2, 1, 1),
    trunk_channels=(16, 24, 32, 48),
    trunk_widths=(16, 24, 32, 48),
    stem=8,
    bottleneck=False,
    fpn_channels=32,
    anchor_sizes=((12.0,), (24.0,), (48.0,), (96.0,), (192.0,)),
    anchor_ratios=((0.4, 1.0, 2.5),) * 5,
    rpn_pre_nms=300,
    rpn_post_nms=200,
    rpn_nms=0.6,
    box_hidden=64,
    mask_channels=(24, 32),
    mask_hidden=16,
    min_score=0.1,
    nms=0.4,
    max_detections=60,
    category_ids=(3, 5, 8),
    categories=("nucleus", "cell", "debris"),
    min_size=128,
    max_size=224,
    mean=(0.4, 0.5, 0.6),
    std=(0.3, 0.2, 0.25),
)


FEW = {"rpn_pre_nms": 60, "rpn_post_nms": 25, "max_detections": 8}  # so that jobs and their masks take little time


def write_tiny(path: Path, image: Path) -> None:
    """Writes random weights, scaled so that the network detects on images like the given one. It detects few."""
    torch.manual_seed(0)
    network = calibrate(build_torchvision(TINY), np.array(Image.open(image).convert("RGB")))
    write_checkpoint(path, network.state_dict(), TINY.replace(**FEW), {"made": "for tests"}, half=False)
