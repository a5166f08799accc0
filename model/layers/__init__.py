"""The layers of Mask R-CNN: backbone, FPN, anchors, RPN, RoIAlign, heads, box arithmetic, NMS, input transform.

No layer knows which family a checkpoint came from: every convention is a field of the `Preset`. Nothing is
exported here, so that importing one layer does not load the others.
"""
