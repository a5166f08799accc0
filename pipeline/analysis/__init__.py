"""Reading an output back: original images, COCO average precision.

It needs neither Ray nor PyTorch.
"""
