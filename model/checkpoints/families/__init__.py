"""Converts the checkpoints of other software to our layout: torchvision, detectron2 and mmdetection.

Each family is one module that ends in a `CheckpointFamily`; `model.checkpoints.checkpoint.FAMILIES` lists them. To add
a family, write its module here and add it to that list.
"""
