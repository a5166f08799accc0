"""Architectures to train from scratch: three trunk sizes, with either design of the region proposal network."""

from __future__ import annotations

from collections.abc import Sequence

from model.preset import Preset

# 5.8 M parameters, 11.6 MB in half precision. Trains on two CPU cores in two hours.
SMALL = Preset(
    name="small",
    blocks=(2, 2, 2, 2),
    trunk_channels=(48, 96, 192, 256),
    trunk_widths=(48, 96, 192, 256),
    stem=48,
    bottleneck=False,
    fpn_channels=96,
    anchor_sizes=((16.0,), (32.0,), (64.0,), (128.0,), (256.0,)),
    box_hidden=256,
    mask_channels=(64, 64, 64, 64),
    mask_hidden=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)
TRUNKS = {
    "small": SMALL,
    "resnet50": Preset(name="resnet50"),
    "resnet101": Preset(name="resnet101", blocks=(3, 4, 23, 3)),
}


def use_finest_level(preset: Preset, sizes: Sequence[float], ratios: Sequence[float] = (0.5, 1.0, 2.0)) -> Preset:
    """Returns the preset with an RPN that runs on the finest FPN level only and has all anchors there.

    This is the region proposal network of the 2015 and 2017 papers: k anchors of several scales and ratios at each
    location, 2k scores with a softmax over (background, object), and 4k deltas. The level keeps twice as many
    candidates before NMS as each of the five levels does in the other design.

    Args:
        preset: the architecture to change.
        sizes: side lengths of the square anchors of equal area in pixels of the network's input, usually three.
        ratios: height / width of the anchors.
    """
    return preset.replace(
        anchor_sizes=(tuple(float(s) for s in sizes),),
        anchor_ratios=(tuple(ratios),),
        rpn_levels=1,
        rpn_scores=2,
        rpn_pre_nms=2 * preset.rpn_pre_nms,
    )
