"""From 28x28 masks to COCO RLE without a full-size mask, and one instance of what several tiles saw.

Everything works on the runs of a mask.
"""
