"""Reads and writes checkpoints: our own files, and those of torchvision, detectron2 and mmdetection.

Each family has a module that converts its files to our layout, and `checkpoint.FAMILIES` lists the families. Import
modules by path: most of them load PyTorch, but `shipped`, `published` and `header` do not.
"""
