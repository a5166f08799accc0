"""Masks as COCO RLE: encoding 28x28 masks without a full-size mask, and merging instances across image tiles.

Import the modules directly: `tile_grid` loads neither PyTorch nor Numba, `rle` loads both. The public name of the
encoder is `model.rle`.
"""
