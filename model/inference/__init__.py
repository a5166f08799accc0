"""Makes a network fast: precision, folded and fused layers, compilation, memory.

Nothing here changes what the network computes, beyond rounding. Import the modules directly, because some of
them load torchvision and others are needed without it.
"""
