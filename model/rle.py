"""The public RLE encoder: boxes and 28x28 masks to COCO run-length encoding. `model.masks` implements it."""

from model.masks.rle import encode, encode_with_area

__all__ = ["encode", "encode_with_area"]
