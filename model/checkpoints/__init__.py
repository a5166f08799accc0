"""Reading and writing checkpoints: our own files, and those of torchvision, detectron2 and mmdetection.

A file is only ever read as tensors and plain values; nothing in it is executed.
"""
