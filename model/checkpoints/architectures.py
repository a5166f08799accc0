"""Networks to start a training from: trunks of four sizes, and the two designs of the region proposals."""

from __future__ import annotations

from collections.abc import Sequence

from model.preset import Preset

# 5.8 M parameters, 11.6 MB in half precision: trains on two CPU cores in two hours.
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


def finest(preset: Preset, sizes: Sequence[float], ratios: Sequence[float] = (0.5, 1.0, 2.0)) -> Preset:
    """The same network with proposals from the finest map alone, every location with all the anchors.

    This is the region proposal network as the 2015 and 2017 papers draw it: k anchors of some scales and
    ratios, 2k scores through a softmax over (background, object), 4k deltas. Where five levels share the
    anchors out, one level has them all: it keeps as many candidates before NMS as two of the others.

    Args:
        sizes: sides of the square anchor of equal area, input pixels; usually three.
        ratios: height / width.
    """
    return preset.replace(
        anchor_sizes=(tuple(float(s) for s in sizes),),
        anchor_ratios=(tuple(ratios),),
        rpn_levels=1,
        rpn_scores=2,
        rpn_pre_nms=2 * preset.rpn_pre_nms,
    )
