"""The parts of the network as PyTorch modules and functions: trunk, FPN, anchors, RPN, RoIAlign, heads, NMS.

Nothing here knows a checkpoint family; conventions come from the `Preset`.
"""
