"""Mask R-CNN, inference only. Useful on its own: `load_model("nuclei").predict([image])`."""

from model.errors import RleError, WeightsError
from model.load import Checkpoint, load_model, read_checkpoint, shipped_names
from model.mask_rcnn import Detections, MaskRCNN
from model.preset import Preset, PresetError

__all__ = [
    "Checkpoint",
    "Detections",
    "MaskRCNN",
    "Preset",
    "PresetError",
    "RleError",
    "WeightsError",
    "load_model",
    "read_checkpoint",
    "shipped_names",
]
