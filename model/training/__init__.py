"""Training on COCO annotations: torchvision's Mask R-CNN and losses around our trunk, learning from random crops.

`loop.train` is the entry point. Import modules by path: all but `architectures` load PyTorch and torchvision.
"""
